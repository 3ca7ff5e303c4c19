"""Files in which something is wrong, and damaged copies of a good one."""

import re
import struct

import numpy as np
import pytest
from helpers import mutations
from helpers.gguf_files import all_types, array, assert_reference_agrees, info, key, open_gguf, raw, string, text, u32

from npgpt.errors import CheckpointError

# Each with the place that its message must name.
ONE = np.float32(1).tobytes()
HUGE = [2**31, 2**32, 2**60, 2**63, 2**64 - 1]


def deep(levels: int) -> bytes:
    value = array(0, 1, b"1")
    for _ in range(levels - 1):
        value = array(9, 1, value)
    return key("deep", 9, value)


BAD_FILES = {
    "empty": (b"", "not GGUF"),
    "three bytes": (b"GGU", "not GGUF"),
    "magic only": (b"GGUF", "version: bytes 4 to 8 of a file of 4"),
    "another magic": (b"GGML" + bytes(40), "not GGUF"),
    "magic backwards": (b"FUGG" + bytes(40), "not GGUF"),
    "version 0": (raw(version=0), "version: this is version 0, and"),
    "version 1": (raw(version=1), "version: this is version 1, and npgpt reads versions 2 and 3"),
    "version 4": (raw(version=4), "version: this is version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version: this is a big-endian file"),
    "no counts": (raw()[:8], "number of tensors: bytes 8 to 16"),
    "one count": (raw()[:16], "number of keys: bytes 16 to 24"),
    "more keys than there are": (raw(n_keys=1), "key 1 of 1"),
    "fewer keys than there are": (raw([u32("a", 1), u32("b", 1)], [info("a")], ONE, n_keys=1), "tensor"),
    "more tensors than there are": (raw([], [info("a")], ONE * 40, n_tensors=2), "tensor 2: a name of 0 bytes"),
    "a tensor at the file's end": (raw([], [info("a")], n_tensors=2)[:57], "tensor 2: bytes 57 to 65"),
    **{f"{count} keys": (raw([u32("a", 1)], n_keys=count), f"number of keys: {count:,}") for count in HUGE},
    **{f"{count} tensors": (raw([], [info("a")], n_tensors=count), f"number of tensors: {count:,}") for count in HUGE},
    "key without a name": (raw([u32("", 1)]), "key 1 of 1: a name of 0 bytes"),
    "key with a long name": (raw([u32("a" * 1025, 1)]), "key 1 of 1: a name of 1,025 bytes"),
    **{
        f"key with a name of {length}": (raw([string(b"abc", length) + bytes(30)]), f"a name of {length:,} bytes")
        for length in HUGE
    },
    "key with a name beyond the end": (raw([string(b"abc", 1000)]), "key 1 of 1: bytes 32 to 1,032 of a file of"),
    "key not UTF-8": (raw([u32(b"a\xff", 1)]), "key 1 of 1: not UTF-8 at byte 1"),
    "key twice": (raw([u32("a", 1), text("a", "b")]), "key 'a' is there twice"),
    "key without a type": (raw([string("a")])[:33], "key 'a': bytes 33 to 37"),
    "type 13": (raw([key("a", 13, bytes(8))]), "key 'a': there is no type 13"),
    "type 2**32 - 1": (raw([key("a", 2**32 - 1, bytes(8))]), "key 'a': there is no type 4294967295"),
    "number cut off": (raw([key("a", 4, b"123")])[:40], "key 'a': it goes beyond the file's end"),
    "float64 cut off": (raw([key("a", 12, b"1234567")])[:44], "key 'a': it goes beyond the file's end"),
    "bool of 2": (raw([key("a", 7, b"\2")]), "key 'a': a bool that is neither 0 nor 1"),
    "array of bools with a 2": (raw([key("a", 9, array(7, 3, b"\0\1\2"))]), "key 'a': a bool that is neither"),
    "string cut off": (raw([key("a", 8, string(b"b", 100))]), "key 'a': it goes beyond the file's end"),
    "string without a length": (raw([key("a", 8, b"1234567")])[:44], "key 'a': it goes beyond the file's end"),
    **{
        f"string of {length}": (raw([key("a", 8, string(b"b", length))]), "key 'a': it goes beyond the file's end")
        for length in HUGE
    },
    "array without a header": (raw([key("a", 9, bytes(11))])[:48], "key 'a': it goes beyond the file's end"),
    "array of type 13": (raw([key("a", 9, array(13, 1, bytes(8)))]), "key 'a': there is no type 13"),
    "array cut off": (raw([key("a", 9, array(4, 4, bytes(15)))])[:64], "key 'a': it goes beyond the file's end"),
    **{
        f"array of {count} {name}": (
            raw([key("a", 9, array(type, count, bytes(40)))]),
            "key 'a': it goes beyond the file's end",
        )
        for count in HUGE
        for type, name in ((0, "bytes"), (12, "float64"), (8, "strings"))
    },
    **{
        f"array of {count} arrays": (
            raw([key("a", 9, array(9, count, bytes(40)))]),
            "key 'a': it goes beyond the file's end",
        )
        for count in HUGE
    },
    "array of cut strings": (raw([key("a", 9, array(8, 2, string(b"b") + string(b"c", 99)))]), "key 'a': it goes"),
    "five arrays deep": (raw([deep(5)]), "key 'deep': arrays in arrays, more than 4 deep"),
    "a thousand arrays deep": (raw([deep(1000)]), "key 'deep': arrays in arrays, more than 4 deep"),
    "alignment 0": (raw([u32("general.alignment", 0)]), "general.alignment: 0 is not a power of two"),
    "alignment 48": (raw([u32("general.alignment", 48)]), "general.alignment: 48 is not a power of two"),
    "alignment text": (raw([text("general.alignment", "32")]), "general.alignment: uint32 was expected, and it is str"),
    "alignment of 64 bits": (
        raw([key("general.alignment", 10, struct.pack("<Q", 32))]),
        "general.alignment: uint32 was expected, and it is uint64",
    ),
    "alignment beyond the end": (
        raw([u32("general.alignment", 2**31)], [info("a")], ONE),
        "tensor 'a': bytes 2,147,483,648 to 2,147,483,652 of a file of",
    ),
    "tensor without a name": (raw([], [info("")], ONE), "tensor 1: a name of 0 bytes, and 1 to 64"),
    "tensor with a long name": (raw([], [info("a" * 65)], ONE), "tensor 1: a name of 65 bytes, and 1 to 64"),
    "tensor not UTF-8": (raw([], [info(b"\x80")], ONE), "tensor 1: not UTF-8 at byte 0"),
    "tensor twice": (raw([], [info("a"), info("a", offset=32)], ONE * 9), "tensor 'a' is there twice"),
    "no axes": (raw([], [info("a", ())], ONE), "tensor 'a': 0 axes, and 1 to 4 were expected"),
    "five axes": (raw([], [info("a", (1,) * 5)], ONE), "tensor 'a': 5 axes"),
    "2**32 - 1 axes": (raw([], [info("a", axes=2**32 - 1)], ONE), "tensor 'a': 4,294,967,295 axes"),
    "axes cut off": (raw([], [info("a", (1, 1))])[:48], "tensor 'a': bytes 37 to 53"),
    "a size of 0": (raw([], [info("a", (0, 4))], ONE), "tensor 'a': it can't be of shape (0, 4)"),
    "a size of 2**64 - 1": (raw([], [info("a", (2**64 - 1,))], ONE), "tensor 'a': it can't be of shape"),
    "sizes that overflow": (raw([], [info("a", (2**32, 2**32))], ONE), "tensor 'a': it can't be of shape"),
    "sizes that overflow to 1": (raw([], [info("a", (2**63, 2, 1, 1))], ONE), "tensor 'a': it can't be of shape"),
    "Q4_K": (raw([], [info("a", (256,), 12)], bytes(144)), "tensor 'a' is Q4_K, and npgpt reads F32, F16, Q4_0"),
    "I32": (raw([], [info("a", (1,), 26)], ONE), "tensor 'a' is of type 26, and npgpt reads"),
    "a type that was given up": (raw([], [info("a", (32,), 4)], bytes(64)), "tensor 'a' is of type 4"),
    "a type that there isn't": (raw([], [info("a", type=2**32 - 1)], ONE), "tensor 'a' is of type 4294967295"),
    "half a block": (raw([], [info("a", (2, 16), "Q8_0")], bytes(34)), "'a': rows of 16 numbers are no whole blocks"),
    "half a superblock": (raw([], [info("a", (128,), "Q6_K")], bytes(210)), "'a': rows of 128 numbers are no whole"),
    "block across rows": (raw([], [info("a", (32, 1), "Q4_0")], bytes(18)), "'a': rows of 1 numbers are no whole"),
    "offset not aligned": (raw([], [info("a", offset=4)], ONE * 9), "tensor 'a': its offset 4 is not a multiple of 32"),
    "offset not aligned to the key": (
        raw([u32("general.alignment", 64)], [info("a", offset=32)], ONE * 40, alignment=64),
        "tensor 'a': its offset 32 is not a multiple of 64",
    ),
    **{
        f"offset {offset}": (raw([], [info("a", offset=offset - offset % 32)], ONE), "tensor 'a': bytes .* is cut off")
        for offset in HUGE
    },
    "no data": (raw([], [info("a")]), "tensor 'a': bytes 64 to 68 of a file of 64: it is cut off"),
    "data cut off": (raw([], [info("a", (8,))], ONE * 7), "tensor 'a': bytes 64 to 96 of a file of 92: it is cut off"),
    "header cut off": (raw([], [info("a")], ONE)[:50], "tensor 'a': bytes 49 to 57"),
    "block cut off": (raw([], [info("a", (32,), "Q8_0")], bytes(33)), "'a': bytes 64 to 98 of a file of 97"),
    "overlap": (
        raw([], [info("a", (9,)), info("b", (2,), offset=32)], ONE * 20),
        "tensor 'b': its offset 32 is inside tensor 'a'",
    ),
    "overlap the other way": (
        raw([], [info("a", (2,), offset=32), info("b", (17,))], ONE * 40),
        "tensor 'a': its offset 32 is inside tensor 'b'",
    ),
    "the same bytes twice": (raw([], [info("a"), info("b")], ONE), "tensor 'b': its offset 0 is inside tensor 'a'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    content, place = BAD_FILES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with mutations.memory_at_most(len(content)), pytest.raises(CheckpointError) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert re.search(place.replace("(", r"\(").replace(")", r"\)"), message), message
    assert message.startswith(f"{path}: ")
    assert len(message) < 300 + len(str(path))
    assert "\n" not in message


def test_there_are_many_bad_files():
    assert len(BAD_FILES) > 60


def test_large_bad_files(tmp_path):
    """As many keys, strings, arrays and tensors as fit: neither the time nor the memory is more than the file's."""
    path = tmp_path / "a"
    many = 200_000
    for content in (
        raw([u32(f"{i}", 1) for i in range(10_000)], [info(f"{i}") for i in range(10_000)], ONE),
        raw([key("a", 9, array(8, many + 10, bytes(8 * many)))]),
        raw([key("a", 9, array(9, many + 10, bytes(12 * many)))]),
        raw([key("a", 8, string(b"\xf0\x9f\x98\x80" + b"a" * 8_388_700, 2**30))]),
    ):
        path.write_bytes(content)
        with mutations.memory_at_most(len(content)), pytest.raises(CheckpointError):
            open_gguf(path)


def test_long_texts_are_not_made_into_strings(tmp_path):
    (tmp_path / "a").write_bytes(raw([text("a", b"\xff" * (9 << 20)), text("b", b"a\xff")]))
    _, metadata, _ = open_gguf(tmp_path / "a")
    with mutations.memory_at_most(0), pytest.raises(CheckpointError, match="a: a string of 9,437,184 bytes is too lo"):
        metadata.text("a")
    with pytest.raises(CheckpointError, match="key b: not UTF-8 at byte 1"):
        metadata.text("b")


def test_metadata_that_does_not_end(tmp_path):
    (tmp_path / "a").write_bytes(raw([key("a", 9, array(0, 70_000_000, b""))]))
    with open(tmp_path / "a", "r+b") as file:
        file.truncate(80_000_000)
    with pytest.raises(CheckpointError, match="key 'a': it goes beyond the file's end, or 64 MB"):
        open_gguf(tmp_path / "a")


def test_mutations_are_read_or_refused(tmp_path, gguf_or_none):
    """Each damaged file gives a CheckpointError, or tensors that the gguf package reads as we do."""
    good = all_types()
    path = tmp_path / "a.gguf"
    header = range(good.index(b"tensor 6") + 60)
    refused = 0
    for seed in range(mutations.COUNT):
        data = mutations.mutated(good, seed, header)
        path.write_bytes(data)
        try:
            tensors, _, _ = open_gguf(path)
        except CheckpointError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f"{path}: "), seed
            continue
        with np.errstate(all="ignore"):
            if gguf_or_none is None:
                for tensor in tensors.values():
                    tensor.numpy()
            else:
                assert_reference_agrees(gguf_or_none, path, tensors)
    assert mutations.COUNT // 4 < refused < mutations.COUNT * 9 // 10  # else they are too gentle, or too crude


@pytest.fixture(scope="module")
def gguf_or_none():
    try:
        import gguf
    except ImportError:
        return None  # then it is only checked that nothing else happens
    return gguf
