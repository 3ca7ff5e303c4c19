"""LevelDB's table, a file of keys and values in the order of the keys; TensorFlow's index is one.

    data blocks     the keys and values
    metaindex       a block about other blocks; TensorFlow leaves it empty
    index block     for each data block: a key between its last one and the next one's first
                    -> where the block is, as two varints: offset, size
    footer          48 bytes: offset and size of the metaindex and of the index, zeros, and the magic number

A block, after which come a byte that says how it is compressed, and a checksum over both:

    entries         varints: bytes shared with the key before, other bytes of the key, bytes of the value;
                    then those bytes of the key, and the value
    restarts        u32 each: where an entry begins that shares nothing, so that keys can be searched for by halves
    u32             how many restarts there are

Source: github.com/google/leveldb, doc/table_format.md, and tensorflow/core/lib/io/table_builder.cc.
"""

from collections.abc import Iterator

from npgpt.checkpoints.formats import TABLE_MAGIC
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked
from npgpt.checkpoints.tensorflow.protobuf import varint
from npgpt.errors import CheckpointError

MAX_FILE_BYTES = 1_000_000  # GPT-2 XL's takes 30,000
MAX_KEY_BYTES = 256  # keys are stored as what they don't share, so many long ones can be in a small file
_FOOTER, _TRAILER = 48, 5


def read_table(file: MappedFile) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) in the order of the keys, each key once. Raises CheckpointError."""
    if file.size > MAX_FILE_BYTES:
        raise CheckpointError(f"{file.path}: larger than {MAX_FILE_BYTES:,} bytes, so it is not a GPT-2's index")
    if file.size < _FOOTER or file.take(file.size - 8, 8, "magic number") != TABLE_MAGIC:
        raise CheckpointError(f"{file.path}: not a table, or cut off: it does not end with the magic number")
    footer = file.take(file.size - _FOOTER, 40, "footer")
    _, _, used = _handle(footer, 0, f"{file.path}: footer")
    offset, size, _ = _handle(footer, used, f"{file.path}: footer")
    last, end = None, 0
    for number, (_, where) in enumerate(_entries(_block(file, offset, size, "index block"), f"{file.path}: index")):
        what = f"block {number}"
        offset, size, _ = _handle(where, 0, f"{file.path}: index: {what}")
        if offset < end:  # one large block, named 100,000 times, would be read as often
            raise CheckpointError(
                f"{file.path}: {what}: it begins at byte {offset:,}, and the one before ends at {end:,}"
            )
        end = offset + size + _TRAILER
        for key, value in _entries(_block(file, offset, size, what), f"{file.path}: {what}"):
            if last is not None and key <= last:
                raise CheckpointError(f"{file.path}: {what}: key {key[:100]!r} is not after {last[:100]!r}")
            yield key, value
            last = key


def _handle(data: bytes, position: int, place: str) -> tuple[int, int, int]:
    """-> a block's offset and size, and where the two numbers end."""
    offset, position = varint(data, position, place)
    size, position = varint(data, position, place)
    return offset, size, position


def _block(file: MappedFile, offset: int, size: int, what: str) -> bytes:
    """A block's contents: its checksum is right, and it is not compressed."""
    data = file.take(offset, size + _TRAILER, what)
    if masked(crc32c(data[:-4])) != int.from_bytes(data[-4:], "little"):
        raise CheckpointError(f"{file.path}: {what}: its checksum is not that of its bytes, so it is damaged")
    if data[size] != 0:
        raise CheckpointError(f"{file.path}: {what}: compressed; TensorFlow from 1.2 on saves indexes as they are")
    return data[:size]


def _entries(block: bytes, place: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of one block's entries."""
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    position, key = 0, b""
    while position < end:
        shared, position = varint(block, position, place)
        own, position = varint(block, position, place)
        length, position = varint(block, position, place)
        if shared > len(key) or shared + own > MAX_KEY_BYTES or own + length > end - position:
            raise CheckpointError(f"{place}: damaged before byte {position:,}: a key or a value that is too long")
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length
