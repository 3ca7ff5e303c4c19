"""Formats are told apart: no valid file of one is taken for another, also where their first bytes are the same."""

import itertools
import json
import pickle
import re
import struct

import numpy as np
import pytest
from conftest import ROOT
from helpers.commands import command, refused
from helpers.models import with_random_parameters
from helpers.openai_folder import GOOD_INDEX
from helpers.tables import block, header, table
from helpers.torch_bytes import legacy_file, zip_file

from npgpt import GPT, GPTConfig
from npgpt.checkpoints import formats, load, open_checkpoint, save
from npgpt.checkpoints.gguf.model import _FILE_TYPES
from npgpt.checkpoints.llmc import _VERSIONS
from npgpt.checkpoints.safetensors import BLOCK_TYPES
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError

CONFIG = GPTConfig(vocab_size=257, block_size=9, n_layer=1, n_head=2, n_embd=32)
FILES = [row for row in formats.FORMATS if row.matches]
RULES = {row.name: row.matches for row in FILES}
HEADER = b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'


def safetensors(length: int, data: bytes = bytes(8)) -> tuple[bytes, bytes]:
    """First and last bytes of a valid file with a header of this length, spaces included."""
    assert len(HEADER) <= length <= formats.MAX_HEADER_BYTES
    return (length.to_bytes(8, "little") + HEADER)[: formats.BEGIN], data[-formats.END :]


def matching(begin: bytes, end: bytes) -> list[str]:
    return [name for name, rule in RULES.items() if rule(begin, end)]


# What others begin with, as the lowest bytes of a safetensors header's length: pickles of each protocol, GGUF, ZIP,
# llm.c, zeros as a table has. Those that make a length beyond the limit can't begin a safetensors file.
OPENINGS = [bytes([0x80, protocol]) for protocol in range(2, 6)]
OPENINGS += [b"\x80\x02\x8a\x0a", b"\x80\x04\x95\x0b", b"GGUF", b"GG", b"GGU", b"PK\3\4", b"PK\1\2", b"\0\0"]
OPENINGS += [formats.LLMC_MAGIC, formats.LLMC_MAGIC[:3], formats.TABLE_MAGIC[:3]]
LENGTHS = {
    int.from_bytes(opening + more, "little")
    for opening in OPENINGS
    for more in (bytes(k) for k in itertools.product((0, 1, 5, 255), repeat=max(0, min(4 - len(opening), 2))))
}
LENGTHS |= {*range(0x0280, 0x0580 + 1), *range(len(HEADER), 300), formats.MAX_HEADER_BYTES}
POSSIBLE = sorted(length for length in LENGTHS if len(HEADER) <= length <= formats.MAX_HEADER_BYTES)


def test_a_header_of_any_length_is_one_of_safetensors():
    """1,408 = 0x0580 was taken for a pickle, once."""
    assert {0x0280, 0x0380, 0x0480, 0x0580} <= set(POSSIBLE)
    assert {int.from_bytes(opening, "little") for opening in (b"PK\3\4", formats.LLMC_MAGIC)} <= set(POSSIBLE)
    endings = [bytes(8), formats.TABLE_MAGIC, b"PK\5\6\0\0\0\0"]
    for length, end in itertools.product(POSSIBLE, endings):
        assert matching(*safetensors(length, end)) == ["safetensors"], hex(length)
    assert int.from_bytes(b"GGUF", "little") > formats.MAX_HEADER_BYTES
    assert int.from_bytes(b"\x80\x04\x95\x0b", "little") > formats.MAX_HEADER_BYTES


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, int.from_bytes(formats.LLMC_MAGIC, "little")])
def test_safetensors_that_begin_like_others_are_read(tmp_path, length):
    header = json.dumps({"a": {"dtype": "U8", "shape": [10 * length], "data_offsets": [0, 10 * length]}}).encode()
    with open(tmp_path / "a", "wb") as file:
        file.write(length.to_bytes(8, "little") + header.ljust(length))
        file.truncate(8 + 11 * length)
    file = MappedFile(tmp_path / "a")
    assert file.format().name == "safetensors"
    with pytest.raises(CheckpointError, match="the number of heads is unknown"):
        file.format().load().read(file)


def test_a_run_whose_header_begins_like_a_pickle_loads(tmp_path):
    """The header's spaces make its length what it must be for that."""
    model = with_random_parameters(GPT(CONFIG))
    save(model, tmp_path / "a", "safetensors")
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    wanted = next(n for n in range(length, length + 65536) if n % 256 == 0x80 and n // 256 % 256 in (2, 3, 4, 5))
    padded = wanted.to_bytes(8, "little") + data[8 : 8 + length].ljust(wanted) + data[8 + length :]
    (tmp_path / "b").write_bytes(padded)
    assert padded[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
    np.testing.assert_array_equal(load(tmp_path / "b").wte.weight.data, model.wte.weight.data)


def llmc(version: int, sizes=(1024, 50257, 12, 12, 768, 50304)) -> bytes:
    return formats.LLMC_MAGIC + struct.pack("<7i", version, *sizes)


def gguf(version: int, tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def index(shards=1, version=b"\x08\x01") -> bytes:
    return table((b"a", block((b"", header(shards, version=version)))))


# The first fields of each, chosen so that bytes are those of others: { where safetensors has it, numbers that spell
# magics, sizes of zero.
VALID = {
    "pytorch": [
        *(zip_file(), legacy_file()),
        *(pickle.dumps(0x1950A86A20F9469CFC6C, protocol) for protocol in (2, 3, 4, 5)),
        *(b"PK\3\4" + struct.pack("<HHH", version, flags, 0) for version in (0, 10, 45) for flags in (0, 8, 0x0808)),
    ],
    "llm.c": [
        *(llmc(version, (T, 50257, 12, 12, 768, 50304)) for version in (3, 5) for T in (ord("{"), 0x7B22, 1024)),
        llmc(3, (1, 0x46554747, 1, 1, 1, 0x46554747)),
    ],
    "gguf": [gguf(version, tensors, keys) for version in (2, 3) for tensors in (0, ord("{"), 148) for keys in (0, 5)],
    "tensorflow": [
        GOOD_INDEX,
        *(index(shards) for shards in (1, 2, 127, 128, 1000)),
        index(1, b""),
    ],
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_file_matches_its_own_rule_alone(name):
    for data in VALID[name]:
        ends = [data[-8:]] if name == "tensorflow" else [data[-8:], formats.TABLE_MAGIC, HEADER[:8]]
        for end in ends:  # which are weights, so they may be anything
            assert matching(data[: formats.BEGIN], end) == [name], data[: formats.BEGIN]


def test_every_pair_of_rules_is_apart_for_all_first_bytes():
    """Bytes 0 to 12, each from those that a rule looks at: no opening and ending satisfies two rules."""
    starts = [*(opening.ljust(4, b"\0") for opening in OPENINGS), b"\0\0\6\x08", b"\0\0\0\0"]
    middles = [bytes(4), b"\3\0\0\0", b"\5\0\0\0", b"\0\0\0\3", b"\1\x1a\2\x08", b"\xf9\x46\x9c\xfc", b"\0\0\x08\x08"]
    nexts = [b'{"a"', b"{\0\0\0", bytes(4), b'\0\0{"', b"\x6a\xa8\x50\x19", b"\x08\0\0\0"]
    tails = [bytes(20), HEADER[4:24], b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"." + bytes(7)]
    begins = [b"".join(parts) for parts in itertools.product(starts, middles, nexts, tails)]
    begins += [pickle.dumps(0x1950A86A20F9469CFC6C, protocol).ljust(32, b"{") for protocol in (2, 3, 4, 5)]
    seen = set()
    for begin, end in itertools.product(begins, [bytes(8), formats.TABLE_MAGIC]):
        found = matching(begin, end)
        assert len(found) <= 1, (begin, end, found)
        seen |= set(found)
    assert seen == set(RULES)


# What is none of them


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", ": it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), ""),
        (b"Once upon a time there was a model.", ""),
        (b"{}", ""),
        (pickle.dumps({"a": 1}), ": it may be a pickle, but not one of torch.save's"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", ": it stands for a file in Git LFS: .*"),
    ],
)
def test_the_error_for_another_file_names_what_was_tried(tmp_path, data, hint):
    (tmp_path / "a").write_bytes(data)
    tried = r"\(tried: safetensors, tensorflow, pytorch, llm\.c, gguf\)"
    with pytest.raises(CheckpointError, match=rf"/a: not a file format that npgpt reads {tried}{hint}$"):
        open_checkpoint(tmp_path / "a")


def test_commands_refuse_what_is_no_checkpoint(tmp_path):
    (tmp_path / "text.txt").write_text("not weights at all")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "folder").mkdir()
    for name, words in [
        ("text.txt", "tried: "),
        ("config.json", "name the folder"),
        ("folder", "no config.json in it"),
    ]:
        refused("info", name, cwd=tmp_path, words=[words])
        refused("convert", name, "a.gguf", cwd=tmp_path, words=[words])


# The table


def test_readme_has_the_formats_and_dtypes_that_are_written():
    rows = [f"`--to {name}` ({', '.join(row.dtypes)})" for name, row in formats.WRITTEN.items()]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"`--to [\w.]+` \(.*?\)", readme) == rows


def test_writers_have_the_dtypes_of_the_table():
    assert formats.WRITTEN["gguf"].dtypes == tuple(_FILE_TYPES)
    assert formats.WRITTEN["llm.c"].dtypes == tuple(name for name, _ in _VERSIONS.values())
    assert formats.WRITTEN["safetensors"].dtypes == (*formats.WRITTEN["huggingface"].dtypes, *BLOCK_TYPES)
    assert all(row.dtypes[0] == "F32" for row in formats.WRITTEN.values())


@pytest.mark.parametrize("row", formats.WRITTEN.values(), ids=lambda row: row.name)
def test_what_is_written_is_told_to_be_that(tmp_path, row):
    save(with_random_parameters(GPT(CONFIG)), tmp_path / f"a{row.suffix}", row.name)
    if row.matches:
        assert MappedFile(tmp_path / f"a{row.suffix}").format() is row
    assert command("info", f"a{row.suffix}", cwd=tmp_path).code == 0
    with pytest.raises(CheckpointError, match=r"is written with dtype F32, .*, not Q6_K"):
        save(GPT(CONFIG), tmp_path / "b", row.name, "Q6_K")
    with pytest.raises(CheckpointError, match="there is no format 'onnx' to write; there are safetensors, huggingface"):
        save(GPT(CONFIG), tmp_path / "b", "onnx")
    if row.suffix:  # the name says which format, as for convert
        (tmp_path / "again").mkdir()
        save(with_random_parameters(GPT(CONFIG)), tmp_path / "again" / f"a{row.suffix}")
        assert (tmp_path / "again" / f"a{row.suffix}").read_bytes() == (tmp_path / f"a{row.suffix}").read_bytes()
    save(GPT(CONFIG), tmp_path / "gpt-2.5-mini")
    assert (tmp_path / "gpt-2.5-mini" / "config.json").exists()
