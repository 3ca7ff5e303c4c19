"""A tokenizer's files, against transformers and tokenizers; and whose vocabulary a stranger's folder has."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers import mutations
from helpers.models import as_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface import tokenizer as tokenizer_files
from npgpt.checkpoints.huggingface.tokenizer import tokenizer_json, tokenizer_of_folder, write_tokenizer_files
from npgpt.checkpoints.huggingface.write import write as write_huggingface
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.gpt2_bpe import PATTERN
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, make_tokenizer

REASON = "compares with transformers and tokenizers, which are not installed"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "data").glob("*.txt"))]
ODD = [
    "",
    " ",
    "  \n\n\t a  b ",
    " " * 3000 + "x" + "\n" * 3000,
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad",
    "a\u1680b\u180ec\u200bd\u2028e\u2029f\u3000g\ufeffh\ufffdi\uffffj",
    "it's IT'S don't we'll ’twas 's 'S",
    "👨‍👩‍👧‍👦 é e\u0301 \u0915\u094d\u0937 ẞ ǅ 漢字 １２ Ⅷ ½ ٣",
    "\U0001d400\U000e0001\U0010ffff",
    "\r\n\r\r\n",
    "a" * 3000 + "1" * 3000 + "!" * 3000,
    "<|endoftext",
    "Ġ Ċ â ▁",
]
CHARACTERS = "".join(sorted({*"".join([*TEXTS, *ODD])}))
TOKENIZERS = {
    "gpt2": GPT2Tokenizer(),
    "char": CharTokenizer(CHARACTERS),
    "byte": ByteTokenizer(),
    "bpe": make_tokenizer("bpe:1000", [*TEXTS, *ODD]),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The tokenizers that transformers makes of our files."""
    transformers = pytest.importorskip("transformers", reason=REASON)
    found = {}
    for name, tokenizer in TOKENIZERS.items():
        folder = tmp_path_factory.mktemp(name)
        write_tokenizer_files(folder, tokenizer, 1 << 20)
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        found[name] = transformers.AutoTokenizer.from_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def libraries():
    """Those that the tokenizers library makes of tokenizer.json: of GPT-2's, transformers 5 takes parts alone."""
    tokenizers = pytest.importorskip("tokenizers", reason=REASON)
    return {name: tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(t))) for name, t in TOKENIZERS.items()}


def short_text(name: str):
    characters = st.sampled_from(CHARACTERS) if name == "char" else st.characters(exclude_categories=["Cs"])
    return st.text(characters | st.sampled_from(" \n\t'ste1.é"), max_size=60)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", [*TEXTS, *ODD])
def test_the_same_ids_and_text(theirs, libraries, name, text):
    ids = TOKENIZERS[name].encode(text).tolist()
    assert theirs[name].encode(text) == libraries[name].encode(text).ids == ids
    assert theirs[name].decode(ids) == libraries[name].decode(ids) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_ids_and_text_of_any_text(theirs, libraries, name):
    @given(short_text(name))
    def check(text):
        ids = TOKENIZERS[name].encode(text).tolist()
        assert theirs[name].encode(text) == libraries[name].encode(text).ids == ids
        assert theirs[name].decode(ids) == libraries[name].decode(ids) == text

    check()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_text_of_any_ids(theirs, libraries, name):
    """Also where the bytes are not UTF-8, and with <|endoftext|>."""
    rng = np.random.default_rng(0)
    ours = TOKENIZERS[name]
    for _ in range(300):
        ids = rng.integers(0, ours.vocab_size, rng.integers(1, 40))
        ids[rng.random(len(ids)) < 0.05] = ours.end_of_text
        assert theirs[name].decode(ids) == ours.decode(ids)
        assert libraries[name].decode(ids.tolist(), skip_special_tokens=False) == ours.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_end_of_text(theirs, libraries, name):
    """The one difference: there its name in a text is its id, and here ordinary text."""
    end = TOKENIZERS[name].end_of_text
    their = theirs[name]
    assert (their.bos_token_id, their.eos_token_id, their.pad_token, len(their)) == (end, end, None, end + 1)
    assert their.convert_tokens_to_ids("<|endoftext|>") == end
    assert end in their.encode("a<|endoftext|>b")
    assert end not in TOKENIZERS["byte"].encode("a<|endoftext|>b")
    if name != "char":  # in which these characters are not all known
        ordinary = their.encode("a<|endoftext|>b", split_special_tokens=True)
        assert ordinary == TOKENIZERS[name].encode("a<|endoftext|>b").tolist()
    assert their.decode([end, end], skip_special_tokens=True) == ""
    assert libraries[name].decode([end, end], skip_special_tokens=True) == ""


def test_tiktokens_file_of_a_tokenizer_of_ones_own(tmp_path):
    """tiktoken's own reader and encoder give the same ids, and transformers reads vocab.json and merges.txt too."""
    tiktoken_load = pytest.importorskip("tiktoken.load")
    import tiktoken

    ours = TOKENIZERS["bpe"]
    write_tokenizer_files(tmp_path, ours, 1024)
    try:
        ranks = tiktoken_load.load_tiktoken_bpe(str(tmp_path / "tokenizer.tiktoken"))
    except ImportError as error:  # older versions read no file without another package
        pytest.skip(str(error))
    theirs = tiktoken.Encoding("theirs", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[1:-1] == list(ours.merges)
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["<|endoftext|>"] == ours.end_of_text
    for text in [*TEXTS, *ODD]:
        assert theirs.encode_ordinary(text) == ours.encode(text).tolist()


def test_merges_that_are_no_encoding_are_not_written(tmp_path):
    """In "abcd" the bytes "bc" are merged first, so it is never made of "ab" and "cd"."""
    with pytest.raises(TokenizerError, match="not made of two earlier ones"):
        write_tokenizer_files(tmp_path, BPETokenizer(["b c", "a b", "c d", "ab cd"]), 8)


# Whose vocabulary a folder has


def gpt2_vocabulary() -> dict[str, int]:
    return dict(tokenizer_files._gpt2_vocabulary())


def write(folder: Path, name: str, vocabulary, **others) -> None:
    values = vocabulary
    if name == "tokenizer.json":
        merges = [[token[0], token[1:]] for token in list(vocabulary)[256:-1]]  # cut anywhere: the token counts
        values = {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}, **others}
    (folder / name).write_text(json.dumps(values))


def test_what_cuts_otherwise_is_not_gpt2(tmp_path):
    """The vocabulary is GPT-2's, and texts get other ids with it."""
    vocabulary = gpt2_vocabulary()
    spaced = {"type": "ByteLevel", "add_prefix_space": True}
    for others in (
        {"pre_tokenizer": spaced},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, spaced]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 5}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": ["ByteLevel"]}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"vocab": vocabulary, "merges": ["\u0120 t"]}},
        {"model": {"vocab": vocabulary}},
    ):
        write(tmp_path, "tokenizer.json", vocabulary, **others)
        assert tokenizer_of_folder(tmp_path, 50257) is None
    write(tmp_path, "tokenizer.json", vocabulary, normalizer=None, pre_tokenizer={**spaced, "add_prefix_space": False})
    assert tokenizer_of_folder(tmp_path, 50257) is not None
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert tokenizer_of_folder(tmp_path, 50257) is None


def test_merges_beside_a_vocabulary(tmp_path):
    write(tmp_path, "vocab.json", gpt2_vocabulary())
    merges = [f"{token[0]} {token[1:]}" for token in list(gpt2_vocabulary())[256:-1]]
    for lines, is_gpt2 in ((merges, True), (merges[:-1], False), ([*merges[1:], merges[0]], False)):
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
        assert (tokenizer_of_folder(tmp_path, 50257) is not None) == is_gpt2


@pytest.mark.parametrize("name", ["spiece.model", "vocab.txt", "tokenizer_config.json"])
def test_gpt2_is_not_guessed_where_something_speaks_of_another(tmp_path, name):
    (tmp_path / name).write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert tokenizer_of_folder(tmp_path, 50257) is None
    (tmp_path / name).unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2TokenizerFast"}')
    assert tokenizer_of_folder(tmp_path, 50257) is not None


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
def test_the_vocabulary_that_is_there_decides(tmp_path, name):
    assert isinstance(tokenizer_of_folder(tmp_path, 50257), GPT2Tokenizer)
    for guess, vocab_size in [(False, 50257), (True, 50256), (True, 50304)]:
        assert tokenizer_of_folder(tmp_path, vocab_size, guess) is None
    write(tmp_path, name, gpt2_vocabulary())
    for guess, vocab_size in [(True, 50257), (False, 50257), (True, 50304)]:
        assert isinstance(tokenizer_of_folder(tmp_path, vocab_size, guess), GPT2Tokenizer)
    assert tokenizer_of_folder(tmp_path, 50256) is None
    other = gpt2_vocabulary()
    other["the"], other["a"] = other["a"], other["the"]
    write(tmp_path, name, other)
    assert tokenizer_of_folder(tmp_path, 50257) is None


def test_files_of_transformers(tmp_path):
    """GPT-2's files as transformers saves them; with an added token; and those of a vocabulary of its size."""
    transformers = pytest.importorskip("transformers", reason=REASON)
    write_tokenizer_files(tmp_path, TOKENIZERS["gpt2"], 1024)
    their = transformers.AutoTokenizer.from_pretrained(tmp_path, tokenizer_type="gpt2")
    their.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "npgpt_tokenizer.json").exists()
    assert isinstance(tokenizer_of_folder(tmp_path / "saved", 50257), GPT2Tokenizer)
    their.add_special_tokens({"pad_token": "[PAD]"})
    their.save_pretrained(tmp_path / "padded")
    assert isinstance(tokenizer_of_folder(tmp_path / "padded", 50258), GPT2Tokenizer)
    other = transformers.GPT2Tokenizer(vocab=dict(zip(gpt2_vocabulary(), range(50256, -1, -1), strict=True)), merges=[])
    other.save_pretrained(tmp_path / "other")
    assert tokenizer_of_folder(tmp_path / "other", 50257) is None


def test_a_folder_with_a_strangers_vocabulary(tmp_path):
    """Its weights load; what its ids mean is unknown, whatever their number; and so for copies of it."""
    config = GPTConfig(50257, 4, 1, 1, 2)
    write_huggingface(tmp_path / "a", as_checkpoint(GPT(config, seed=0), TOKENIZERS["gpt2"]))
    (tmp_path / "a" / "npgpt_tokenizer.json").unlink()
    assert open_checkpoint(tmp_path / "a").tokenizer.name == "gpt2"
    write(tmp_path / "a", "vocab.json", dict(zip(gpt2_vocabulary(), range(50256, -1, -1), strict=True)))
    read = open_checkpoint(tmp_path / "a")
    assert read.tokenizer is None
    with pytest.raises(CheckpointError, match=r"no tokenizer is known for its vocabulary of 50,257 ids:\nput one"):
        read.require_tokenizer()
    write_huggingface(tmp_path / "b", read)
    assert open_checkpoint(tmp_path / "b").tokenizer is None
    (tmp_path / "a" / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a/vocab\.json: not JSON at character 1"):
        _ = open_checkpoint(tmp_path / "a").tokenizer
    load(tmp_path / "a")  # the weights are fine


OTHERS = {
    "a list": b"[]",
    "ids as text": b'{"!": "0"}',
    "the model a list": b'{"model": []}',
    "half a pair": b'{"\\ud800": 0, "model": {"vocab": {"\\ud800": 0}}}',
    "ten megabytes": b'{"a": "' + b"x" * 10_000_000 + b'"}',
    "many objects": b"[" + b"{}," * 3_000_000 + b"{}]",
    "as many as can be": b"[" + b"{}," * 120_000 + b"{}]",
}
BAD = {
    "empty": (b"", "not JSON at character 0"),
    "not UTF-8": (b'{"\xff": 0}', "not UTF-8 at byte 2"),
    "a token twice": (b'{"!": 0, "!": 1}', "the key '!' is there twice"),
    "deep": (b"[" * 200_000, "the JSON is nested too deeply"),
    "pickle": (b"\x80\x02}q\x00.", "not UTF-8 at byte 0"),
}


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("case", [*OTHERS, *BAD])
def test_other_and_damaged_vocabularies(tmp_path, name, case):
    _ = tokenizer_files._gpt2_vocabulary()
    content, place = (OTHERS[case], None) if case in OTHERS else BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    with mutations.memory_at_most(len(content)):
        if place is None:
            assert tokenizer_of_folder(tmp_path, 50257) is None
        else:
            with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: {place}") as caught:
                tokenizer_of_folder(tmp_path, 50257)
            assert len(str(caught.value)) < 300 + len(str(path))
