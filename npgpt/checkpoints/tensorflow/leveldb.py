"""LevelDB's table, a file of keys and values in the order of the keys; TensorFlow's index is one.

    data blocks     the keys and values
    metaindex       a block about other blocks; TensorFlow leaves it empty
    index block     for each data block: a key that is not before its last one, nor after the next one's first
                    -> where the block is, as two varints: offset, size
    footer          48 bytes: offset and size of the metaindex and of the index, zeros, and the magic number

A block, after which come a byte that says how it is compressed, and a checksum over both:

    entries         varints: bytes shared with the key before, other bytes of the key, bytes of the value;
                    then those bytes of the key, and the value
    restarts        u32 each: where an entry begins that shares nothing, so that keys can be searched for by halves
    u32             how many restarts there are

The whole of it is checked, also what only a search needs: so a reader that searches finds what is found here.

Source: github.com/google/leveldb, doc/table_format.md, and tensorflow/core/lib/io/table_builder.cc.
"""

import numpy as np

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked
from npgpt.checkpoints.tensorflow.protobuf import varint
from npgpt.errors import CheckpointError

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
MAX_FILE_BYTES = 1_000_000  # GPT-2 XL's takes 30,000
MAX_KEY_BYTES = 256  # keys are stored as what they don't share, so many long ones can be in a small file
_FOOTER, _TRAILER = 48, 5
_COMPRESSIONS = {1: "snappy", 2: "zstd"}


def matches(file: MappedFile) -> bool:
    """True if the file ends as a table does."""
    return file.size >= _FOOTER and file.take(file.size - 8, 8, "magic number") == MAGIC


def read_table(file: MappedFile):
    """Yield (key, value), both bytes, in the order of the keys, each key once. Raises CheckpointError."""
    if file.size > MAX_FILE_BYTES:
        raise CheckpointError(f"{file.path}: larger than {MAX_FILE_BYTES:,} bytes, so it is not a GPT-2's index")
    if not matches(file):
        raise CheckpointError(
            f"{file.path}: it does not end with a table's magic number: it is cut off, or not a table"
        )
    end = file.size - _FOOTER
    place = f"{file.path}: footer"
    footer = file.take(end, 40, "footer")
    metaindex, used = _handle(footer, 0, place)
    index, used = _handle(footer, used, place)
    if any(footer[used:]):
        raise CheckpointError(f"{place}: zeros were expected after byte {used}")
    position, last = 0, None
    entries = _entries(_block(file, index, "index block"), f"{file.path}: index block")
    for number, (limit, where) in enumerate(entries):
        what = f"block {number}"
        place = f"{file.path}: {what}"
        handle, used = _handle(where, 0, f"{file.path}: index block: {what}")
        if used != len(where):
            raise CheckpointError(f"{file.path}: index block: {what}: more than two numbers say where it is")
        position = _end(handle, position, place)
        for key, value in _entries(_block(file, handle, what), place):
            if last is not None and key <= last:
                raise CheckpointError(f"{place}: key {key[:100]!r} begins it, and {last[:100]!r} ends the block before")
            if key > limit:
                raise CheckpointError(
                    f"{place}: key {key[:100]!r} is after {limit[:100]!r}, with which the index ends it"
                )
            yield key, value
            last = key
        last = limit  # the next one's keys must be after it
    position = _end(metaindex, position, f"{file.path}: metaindex block")
    _block(file, metaindex, "metaindex block")
    position = _end(index, position, f"{file.path}: index block")
    if position != end:
        raise CheckpointError(f"{file.path}: {end - position:,} bytes between the last block and the footer")


def _handle(data: bytes, position: int, place: str):
    """-> (offset, size) of a block, and where the two numbers end."""
    offset, position = varint(data, position, 2**64, place)
    size, position = varint(data, position, 2**64, place)
    return (offset, size), position


def _end(handle: tuple[int, int], position: int, place: str) -> int:
    """Where a block ends that must begin at ``position``: between blocks there is nothing."""
    offset, size = handle
    if offset != position:
        raise CheckpointError(f"{place}: it is at {offset:,}, and was expected at {position:,}")
    return offset + size + _TRAILER


def _block(file: MappedFile, handle: tuple[int, int], what: str) -> bytes:
    """A block's contents: its checksum is right, and it is not compressed."""
    offset, size = handle
    data = file.take(offset, size + _TRAILER, what)
    if masked(crc32c(data[:-4])) != int.from_bytes(data[-4:], "little"):
        raise CheckpointError(f"{file.path}: {what}: its checksum is not that of its bytes, so it is damaged")
    compression = data[size]
    if compression != 0:
        raise CheckpointError(
            f"{file.path}: {what}: compressed ({_COMPRESSIONS.get(compression, compression)}), which is not read here; "
            f"TensorFlow from 1.2 on saves indexes as they are"
        )
    return data[:size]


def _entries(block: bytes, place: str):
    """Yield (key, value) of one block's entries; checks that keys ascend, and that the restarts are what they say."""
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * count
    if count == 0 or end < 0:
        raise CheckpointError(f"{place}: {count:,} restarts in a block of {len(block):,} bytes")
    restarts = np.frombuffer(block, "<u4", count, end).tolist()
    if restarts[0] != 0:
        raise CheckpointError(f"{place}: the first restart is at {restarts[0]:,} and not at 0")
    entries, restarts = block[:end], iter([*restarts, None])
    position, restart, key = 0, next(restarts), b""
    while position < end:
        begin = position
        shared, position = varint(entries, position, 2**32, place)
        own, position = varint(entries, position, 2**32, place)
        length, position = varint(entries, position, 2**32, place)
        if shared > len(key) or shared + own > MAX_KEY_BYTES:
            raise CheckpointError(
                f"{place}: the key at {begin:,} shares {shared:,} bytes of {len(key):,} and has {own:,} others; "
                f"{MAX_KEY_BYTES} in all are the most"
            )
        if own + length > end - position:
            raise CheckpointError(f"{place}: the entry at {begin:,} goes beyond the last one's end at {end:,}")
        if begin == restart:
            if shared:
                raise CheckpointError(f"{place}: the key at {begin:,} is a restart, and shares {shared:,} bytes")
            restart = next(restarts)
        before, key = key, key[:shared] + entries[position : position + own]
        if begin and key <= before:
            raise CheckpointError(f"{place}: key {key[:100]!r} is not after {before[:100]!r}, which is before it")
        position += own
        yield key, entries[position : position + length]
        position += length
    if restart is not None and (end or count > 1):  # a block without entries has one restart too
        raise CheckpointError(f"{place}: there is a restart at {restart:,}, and no entry begins there")
