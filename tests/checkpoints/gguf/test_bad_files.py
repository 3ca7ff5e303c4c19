"""Files in which something is wrong, one for each kind of refusal, and damaged copies of good ones."""

import re
import struct

import numpy as np
import pytest
from helpers import mutations
from helpers.gguf_files import (
    array,
    checkpoint_of,
    f32,
    file_of,
    info,
    key,
    open_gguf,
    raw,
    string,
    text,
    u32,
)

from npgpt import GPTConfig
from npgpt.checkpoints import open_checkpoint
from npgpt.checkpoints.gguf.model import NAMES, write
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import CharTokenizer

ONE = np.float32(1).tobytes()
BEYOND = "key 'a': it goes beyond .* bytes"
BAD_FILES = {
    "magic only": (b"GGUF", "version: bytes 4 to 8 of a file of 4"),
    "version 1": (raw(version=1), "version: this is version 1, and npgpt reads versions 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version: this is a big-endian file"),
    "many keys": (raw([u32("a", 1)], n_keys=2**60), "number of keys: 1,152,921,504,606,846,976, and"),
    "many tensors": (raw([], [info("a")], n_tensors=2**60), "number of tensors: 1,152,921,504,606,846,976, and"),
    "more keys than there are": (raw(n_keys=1)[:24], "key 1 of 1: bytes 24 to 32"),
    "a key of 2**63 bytes": (raw([string(b"abc", 2**63) + bytes(30)]), "a name of 9,223,372,036,854,775,808 bytes"),
    "a key not UTF-8": (raw([u32(b"a\xff", 1)]), "key 1 of 1: not UTF-8 at byte 1"),
    "a key twice": (raw([u32("a", 1), text("a", "b")]), "key 'a' is there twice"),
    "type 13": (raw([key("a", 13, bytes(8))]), "key 'a': there is no type 13"),
    "a string of 2**64 - 1": (raw([key("a", 8, string(b"b", 2**64 - 1))]), BEYOND),
    "an array of 2**60 numbers": (raw([key("a", 9, array(12, 2**60, bytes(40)))]), BEYOND),
    "an array of 2**60 strings": (raw([key("a", 9, array(8, 2**60, bytes(40)))]), BEYOND),
    "an array of huge strings": (raw([key("a", 9, array(8, 3, string(b"b", 2**64 - 1) * 2))]), BEYOND),
    "an array of arrays": (raw([key("a", 9, array(9, 1, array(0, 1, b"1")))]), "key 'a': arrays in an array"),
    "alignment 48": (raw([u32("general.alignment", 48)]), "general.alignment: 48 is not a power of two"),
    "a tensor twice": (raw([], [info("a"), info("a", offset=32)], ONE * 9), "tensor 'a' is there twice"),
    "five axes": (raw([], [info("a", (1,) * 5)], ONE), "tensor 'a': 5 axes, and 1 to 4 were expected"),
    "a size of 0": (raw([], [info("a", (0, 4))], ONE), r"tensor 'a': it can't be of shape \(0, 4\)"),
    "sizes that overflow": (raw([], [info("a", (2**63, 2, 1, 1))], ONE), "tensor 'a': it can't be of shape"),
    "Q4_K": (
        raw([], [info("a", (256,), 12)], bytes(144)),
        r"'a' is Q4_K, and npgpt reads F32,.*\n.* --allow-requantize",
    ),
    "half a block": (raw([], [info("a", (2, 16), "Q8_0")], bytes(34)), "'a': rows of 16 elements are no whole blocks"),
    "an offset of 2**63": (raw([], [info("a", offset=2**63)], ONE), "tensor 'a': bytes .* is cut off"),
    "data cut off": (raw([], [info("a", (8,))], ONE * 7), "tensor 'a': bytes 64 to 96 of a file of 92: it is cut off"),
    "the same bytes twice": (
        raw([], [info(f"{i}", (999,)) for i in range(9)], ONE * 999),
        "the tensors take 35,964 bytes of .*: several share elements",
    ),
}


def test_large_bad_files(tmp_path):
    """As many strings as fit: neither the time nor the memory is more than the file's."""
    path = tmp_path / "a"
    for content in (
        raw([key("a", 9, array(8, 200_010, bytes(8 * 200_000)))]),
        raw([key("a", 8, string(b"\xf0\x9f\x98\x80" + b"a" * 8_388_700, 2**30))]),
    ):
        path.write_bytes(content)
        assert mutations.refusal(lambda: open_gguf(path), path)


def test_long_texts_are_not_made_into_strings(tmp_path):
    (tmp_path / "a").write_bytes(raw([text("a", b"\xff" * (9 << 20)), text("b", b"a\xff")]))
    _, metadata, _ = open_gguf(tmp_path / "a")
    with mutations.memory_at_most(0), pytest.raises(CheckpointError, match="a: a string of 9,437,184 bytes is too lo"):
        metadata.text("a")
    with pytest.raises(CheckpointError, match="key b: not UTF-8 at byte 1"):
        metadata.text("b")


# Files that are not a GPT-2, or not one that npgpt computes


def numbers(*pairs) -> dict:
    return {name: u32(name, value) for name, value in pairs}


EPSILON, HEADS = "gpt2.attention.layer_norm_epsilon", "gpt2.attention.head_count"
MATRIX = np.zeros((96, 32), np.float32)
BAD_MODELS = {
    "llama": (file_of({"general.architecture": text("general.architecture", "lla\nma")}), r"is 'lla\\nma', and npgpt"),
    "one part of three": (file_of({"split": key("split.count", 2, b"\3\0")}), "one part of several .*llama-gguf-split"),
    "no heads": (file_of({HEADS: None}), f"key {HEADS} is not there"),
    "2.0 heads": (file_of({HEADS: f32(HEADS, 2)}), f"key {HEADS}: uint32 was expected, and it is float32"),
    "an epsilon of NaN": (file_of({EPSILON: f32(EPSILON, float("nan"))}), f"key {EPSILON} must be a number between"),
    "heads that don't divide": (file_of(numbers((HEADS, 3))), "32 is not divisible by 3"),
    "fewer heads for keys": (
        file_of(numbers(("gpt2.attention.head_count_kv", 1))),
        "key gpt2.attention.head_count_kv is 1, not 2 as in GPT-2",
    ),
    "not causal": (file_of({"c": key("gpt2.attention.causal", 7, b"\0")}), "attention.causal is False, not True"),
    "a giant's layers": (file_of(numbers(("gpt2.block_count", 2**30))), "2 layers in the file, 107374"),
    "no embedding": (file_of(tensors={"token_embd.weight": None}), "tensor 'token_embd.weight' is not there"),
    "another tensor": (file_of(tensors={"rope_freqs.weight": MATRIX}), "has unexpected tensors: 'rope_freqs.weight'"),
    "our name": (file_of(tensors={"wte.weight": MATRIX}), "tensor 'wte.weight' has npgpt's name for it"),
}


@pytest.mark.parametrize("case", BAD_FILES | BAD_MODELS)
def test_bad_files(tmp_path, case):
    path, (content, place) = tmp_path / "model.gguf", (BAD_FILES | BAD_MODELS)[case]
    path.write_bytes(content)
    message = mutations.refusal(lambda: open_checkpoint(path), path)
    assert re.search(place, message or "was read"), message


# Mutations


def test_mutations_are_read_as_the_gguf_package_does_or_refused(tmp_path):
    try:
        import gguf
    except ImportError:
        gguf = None  # then it is only checked that nothing else happens
    config = GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=32, n_inner=32, tie_weights=False)
    path = tmp_path / "model.gguf"
    write(path, checkpoint_of(config, find_tokenizer=lambda: CharTokenizer("abcd")), "Q8_0")
    good = path.read_bytes()
    header, read = range(good.index(b"output_norm.bias") + 100), {}
    ours = {theirs.replace("{}", "0"): name.replace("{}", "0") for theirs, name, *_ in NAMES}
    refused = 0
    for seed in range(mutations.COUNT):
        path.write_bytes(mutations.mutated(good, seed, header))

        def opened():
            read["checkpoint"] = open_checkpoint(path)
            _ = read["checkpoint"].tokenizer

        if mutations.refusal(opened, path):
            refused += 1
            continue
        for tensor in gguf.GGUFReader(path).tensors if gguf else ():
            stored = read["checkpoint"].tensors[ours[tensor.name]]
            with np.errstate(all="ignore"):
                expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                found = stored.numpy().T if stored.transposed else stored.numpy()
            np.testing.assert_array_equal(found, expected, err_msg=str(seed))
    assert mutations.COUNT // 3 < refused < mutations.COUNT
