"""The table under TensorFlow's index: what is in one, and each way in which it can be wrong."""

import re

import pytest
from helpers import mutations
from helpers.tables import Stored, block, ends, handle, stored, table, varint

from checkpoints.tensorflow.make_tensorflow_fixture import FOLDER
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.tensorflow.leveldb import MAGIC, MAX_FILE_BYTES, read_table
from npgpt.checkpoints.tensorflow.protobuf import parse_message
from npgpt.errors import CheckpointError

A = [(b"", b"header"), (b"apple", b"1"), (b"apricot", b"")]
B = [(b"banana", b"2"), (b"cherry", b"3" * 200)]


def read(path) -> list[tuple[bytes, bytes]]:
    return list(read_table(MappedFile(path)))


def test_blocks_and_shared_bytes(tmp_path):
    shared = block((0, b"", b"header"), (0, b"apple", b"1"), (2, b"ricot", b""))
    for first in (block(*A), shared, block(*A, restarts=(0, 9)), block(*A, restarts=(0, 9, 18))):
        (tmp_path / "a").write_bytes(table((b"az", first), (b"cherry", block(*B)), (b"d", block())))
        assert read(tmp_path / "a") == A + B


def test_as_tensorflow_writes_it():
    """More than sixteen keys, after which the first restart comes."""
    for name in ("model.ckpt.index", "tuned-7.index"):
        found = read(FOLDER / name)
        keys = [key for key, _ in found]
        assert keys == sorted(set(keys))
        assert keys[0] == b""
        assert b"model/h1/mlp/c_proj/w" in keys
        assert len(keys) == {"model.ckpt.index": 29, "tuned-7.index": 34}[name]


# Bad ones

GOOD = table((b"az", block(*A)), (b"cherry", block(*B)))
ONE = (b"z", block(*A))


def one(contents) -> bytes:
    """A file with one data block of these contents."""
    return table((b"z", contents))


BAD = {
    "empty": (b"", "does not end with a table's magic number"),
    "magic number alone": (MAGIC, "does not end with"),
    "47 bytes": (GOOD[-47:], "does not end with"),
    "footer alone": (GOOD[-48:], "index block: bytes .* of a file of 48"),
    "text": (b"Once upon a time " * 9, "does not end with"),
    "cut by a byte": (GOOD[:-1], "does not end with"),
    "a byte too many": (GOOD + b"\0", "does not end with"),
    "magic number big-endian": (GOOD[:-8] + MAGIC[::-1], "does not end with"),
    "begins a byte late": (b"\0" + GOOD, "index block: its checksum"),
    "begins a byte early": (GOOD[1:], "index block: its checksum|index block: bytes"),
    "too large": (bytes(MAX_FILE_BYTES) + GOOD, "larger than 1,000,000 bytes"),
    # The footer
    "footer of zeros": (table(ONE, footer=bytes(40)), "index block: its checksum"),
    "footer without an end": (table(ONE, footer=b"\xff" * 40), "footer: a number .* too large"),
    "footer's numbers too long": (table(ONE, footer=b"\x80" * 39 + b"\0"), "footer: a number .* too large"),
    "footer cut off": (table(ONE, footer=b"\0" * 36 + b"\x80" * 4), "index block: its checksum|footer"),
    "index beyond the end": (
        table(ONE, footer=(handle(0, 8) + handle(2**40, 8)).ljust(40, b"\0")),
        "index block: bytes 1,099,511,627,776 to",
    ),
    "index of 2**63 bytes": (
        table(ONE, footer=(handle(0, 8) + handle(0, 2**63)).ljust(40, b"\0")),
        "index block: bytes 0 to 9,223,372,036,854,775,813",
    ),
    "more in the footer": (table(ONE, footer=None)[:-9] + b"\1" + MAGIC, "footer: zeros were expected after"),
    # How blocks lie
    "a hole between blocks": (
        table(ONE, (b"zz", block((b"zz", b""))), between=b"\0"),
        "block 1: it is at .* expected at",
    ),
    "a hole before the footer": (table(ONE, hole=b"\0\0"), "2 bytes between the last block and the footer"),
    "the same block twice": (
        table(ONE, index=lambda e: block(*e, (b"zz", e[0][1]))),
        "block 1: it is at 0, and was expected at",
    ),
    "blocks exchanged": (
        table((b"az", block(*A)), ONE, index=lambda e: block((b"az", e[1][1]), (b"z", e[0][1]))),
        "block 0: it is at",
    ),
    "a block left out": (table((b"az", block(*A)), ONE, index=lambda e: block(e[0])), "metaindex block: it is at"),
    "no blocks in the index": (table(ONE, index=block()), "metaindex block: it is at 41, and was expected at 0"),
    "a block beyond the end": (table(ONE, index=block((b"z", handle(0, 2**50)))), "block 0: bytes 0 to 1,125"),
    "a block over the footer": (
        table(ONE, index=lambda e: block((b"z", handle(0, 100)))),
        "block 0: its checksum|block 0: bytes 0",
    ),
    "a block that is too short": (
        table(ONE, index=block((b"z", handle(0, len(ONE[1]) - 1)))),
        "block 0: its checksum",
    ),
    "metaindex is the index": (table(ONE)[:-48] + handle(0, 0) + handle(0, 0) + bytes(36) + MAGIC, "index block"),
    # Where the index says that blocks are
    "nothing is said": (table(ONE, index=block((b"z", b""))), "index block: block 0: a number is cut off at byte 0"),
    "no size is said": (table(ONE, index=block((b"z", b"\0"))), "index block: block 0: a number is cut off at byte 1"),
    "half a number is said": (table(ONE, index=block((b"z", b"\0\x80"))), "index block: block 0: a number is cut off"),
    "more is said": (
        table(ONE, index=lambda e: block((b"z", e[0][1] + b"\0"))),
        "index block: block 0: more than two numbers",
    ),
    "11 bytes of a number": (
        table(ONE, index=block((b"z", b"\x80" * 10 + b"\0\0"))),
        "index block: block 0: a number .* too large",
    ),
    "2**64": (table(ONE, index=block((b"z", b"\x80" * 9 + b"\2\0"))), "index block: block 0: a number .* too large"),
    # Checksums and compression
    "block changed": (b"\1" + GOOD[1:], "block 0: its checksum is not that of its bytes"),
    "block's checksum changed": (
        one(Stored(stored(block(*A), crc=0))),
        "block 0: its checksum is not that of its bytes",
    ),
    "checksum not masked": (one(Stored(block(*A) + b"\0" + bytes(4))), "block 0: its checksum"),
    "metaindex's checksum": (table(ONE, metaindex=Stored(stored(block(), crc=1))), "metaindex block: its checksum"),
    "index's checksum": (table(ONE, index=Stored(stored(block(), crc=1))), "index block: its checksum"),
    "snappy": (one(Stored(stored(block(*A), 1))), r"block 0: compressed \(snappy\), which is not read here"),
    "zstd": (one(Stored(stored(block(*A), 2))), r"block 0: compressed \(zstd\), which is not read here"),
    "compressed somehow": (one(Stored(stored(block(*A), 77))), r"block 0: compressed \(77\), which is not read"),
    "index compressed": (table(ONE, index=Stored(stored(block(), 1))), r"index block: compressed \(snappy\)"),
    # Restarts
    "block of no bytes": (one(b""), "block 0: 0 restarts in a block of 0 bytes"),
    "block of 3 bytes": (one(b"\1\0\0"), "block 0: 1 restarts in a block of 3 bytes"),
    "no restarts": (one(block(*A, restarts=())), "block 0: 0 restarts"),
    "too many restarts": (one(block(*A, count=100)), "block 0: 100 restarts in a block of"),
    "2**32 - 1 restarts": (one(block(*A, count=2**32 - 1)), "block 0: 4,294,967,295 restarts"),
    "a restart more is said": (one(block(*A, count=2)), "block 0: the first restart is at"),
    "the first restart later": (one(block(*A, restarts=(9,))), "block 0: the first restart is at 9"),
    "a restart within an entry": (one(block(*A, restarts=(0, 5))), "block 0: there is a restart at 5, and no entry"),
    "a restart at the end": (one(block(*A, restarts=(0, 28))), "block 0: there is a restart at 28, and no entry"),
    "a restart beyond the end": (one(block(*A, restarts=(0, 2**31))), "there is a restart at 2,147,483,648, and no"),
    "restarts backwards": (one(block(*A, restarts=(0, 18, 9))), "block 0: there is a restart at 9, and no entry"),
    "a restart twice": (one(block(*A, restarts=(0, 9, 9))), "block 0: there is a restart at 9, and no entry begins"),
    "0 twice": (one(block(*A, restarts=(0, 0))), "block 0: there is a restart at 0, and no entry begins there"),
    "a restart that shares": (
        one(block((0, b"", b"header"), (0, b"apple", b"1"), (2, b"ricot", b""), restarts=(0, 18))),
        "block 0: the key at 18 is a restart, and shares 2 bytes",
    ),
    "restarts of nothing": (one(ends(0, 4)), "block 0: there is a restart at 4, and no entry|block 0"),
    # Entries
    "a first key that shares": (one(block((3, b"a", b""))), "block 0: the key at 0 shares 3 bytes of 0"),
    "a key that shares more than there is": (
        one(block((0, b"ab", b""), (3, b"c", b""))),
        "block 0: the key at 5 shares 3 bytes of 2",
    ),
    "a long key": (one(block((b"k" * 257, b""))), "block 0: the key at 0 shares 0 bytes of 0 and has 257 others; 256"),
    "a key grows long": (one(block((b"k" * 200, b""), (200, b"k" * 57, b""))), "has 57 others; 256 in all"),
    "a key beyond the end": (one(b"\0\x20\0abc" + ends(0)), "block 0: the entry at 0 goes beyond"),
    "a value beyond the end": (one(b"\0\1\x20abc" + ends(0)), "block 0: the entry at 0 goes beyond"),
    "a value of 2**32 - 1": (one(b"\0\1" + varint(2**32 - 1) + b"abc" + ends(0)), "the entry at 0 goes beyond"),
    "a value of 2**32": (one(b"\0\1" + varint(2**32) + b"abc" + ends(0)), "block 0: a number .* too large"),
    "an entry cut off": (one(b"\0" + ends(0)), "block 0: a number is cut off at byte 1"),
    "a number cut off": (one(b"\0\1\x80" + ends(0)), "block 0: a number is cut off at byte 3"),
    "a number without end": (one(b"\xff" * 20 + ends(0)), "block 0: a number .* too large"),
    "zeros without end": (one(b"\x80" * 20 + ends(0)), "block 0: a number .* too large"),
    "keys out of order": (one(block(*A[::-1])), "key b'apple' is not after b'apricot'"),
    "the header's key later": (one(block(A[1], A[0])), "key b'' is not after b'apple'"),
    "a key twice": (one(block(A[0], A[1], A[1])), "key b'apple' is not after b'apple', which is before it"),
    "a key twice in two blocks": (
        table((b"apricot", block(*A)), (b"z", block(A[2]))),
        "block 1: key b'apricot' begins it, and b'apricot' ends",
    ),
    "a block before the other": (
        table((b"cherry", block(*B)), (b"d", block(*A))),
        "block 1: key b'' begins it, and b'cherry' ends the block before",
    ),
    "a key after the index's": (
        table((b"apple", block(*A))),
        "block 0: key b'apricot' is after b'apple', with which the index ends it",
    ),
    "a key before the index's": (
        table((b"bz", block(*A)), (b"z", block(*B))),
        "block 1: key b'banana' begins it, and b'bz' ends the block before",
    ),
    "the index out of order": (
        table((b"z", block(*A)), (b"cherry", block(*B))),
        "index block: key b'cherry' is not after b'z'",
    ),
    "a key of the index twice": (table(ONE, (b"z", block())), "index block: key b'z' is not after b'z'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(tmp_path, case):
    content, place = BAD[case]
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(content)
    with mutations.memory_at_most(len(content)), pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith(f"{path}: ")
    assert len(message) < 400 + len(str(path))
    assert "\n" not in message


def test_there_are_enough_bad_tables():
    assert len(BAD) >= 60


# Protocol buffers

FIELDS = {1: ("a", 0), 2: ("b", 2), 6: ("c", 5), 15: ("d", 0)}
MESSAGES = {
    b"": {"b": []},
    b"\x08\x00": {"a": 0, "b": []},
    b"\x08\xac\x02": {"a": 300, "b": []},  # the encoding guide's own example
    b"\x08" + b"\xff" * 9 + b"\x01": {"a": 2**64 - 1, "b": []},
    b"\x08\x80\x80\x00": {"a": 0, "b": []},
    b"\x12\x00\x12\x02hi": {"b": [b"", b"hi"]},
    b"\x35\x01\x00\x00\x80": {"c": 2**31 + 1, "b": []},
    b"\x78\x01\x08\x02": {"d": 1, "a": 2, "b": []},
}
BAD_MESSAGES = {
    b"\x08": "a number is cut off at byte 1",
    b"\x08\x80": "a number is cut off at byte 2",
    b"\x08" + b"\xff" * 9 + b"\x02": "a number .* too large",
    b"\x08" + b"\x80" * 10 + b"\x00": "a number .* too large",
    b"\x08\x01\x08\x01": "a is there twice",
    b"\x35\1\2\3\4\x35\1\2\3\4": "c is there twice",
    b"\x00\x01": "unknown field 0 of type 0 at byte 0",
    b"\x18\x01": "unknown field 3 of type 0 at byte 0",
    b"\x08\x01\x18\x01": "unknown field 3 of type 0 at byte 2",
    b"\x0a\x01\x01": "unknown field 1 of type 2",
    b"\x0b\x0c": "unknown field 1 of type 3",
    b"\x09" + bytes(8): "unknown field 1 of type 1",
    b"\x0e": "unknown field 1 of type 6",
    b"\x88\x00\x01": "unknown field 17 of type 0",  # 1 of type 0, in a longer way
    b"\xff\xff\xff\xff\x0f": "unknown field 31 of type 7",
    b"\x12\x03hi": "b takes 3 bytes, and 2 are left",
    b"\x12": "a number is cut off at byte 1",
    b"\x12" + varint(2**31) + b"hi": "a number .* too large",
    b"\x12" + varint(2**31 - 1) + b"hi": "b takes 2,147,483,647 bytes, and 2 are left",
    b"\x35\1\2\3": "c takes 4 bytes, and 3 are left",
}


@pytest.mark.parametrize("data", MESSAGES)
def test_messages(data):
    assert parse_message(data, FIELDS, {"b"}, "here") == MESSAGES[data]


@pytest.mark.parametrize("data", BAD_MESSAGES)
def test_bad_messages(data):
    with pytest.raises(CheckpointError, match=f"^here: {BAD_MESSAGES[data]}"):
        parse_message(data, FIELDS, {"b"}, "here")
