"""Tables and TensorFlow's records, written by hand, right or wrong."""

from npgpt.checkpoints.formats import TABLE_MAGIC as MAGIC
from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked


def varint(number: int) -> bytes:
    number %= 2**64
    data = b""
    while number > 127:
        data += bytes([number % 128 + 128])
        number //= 128
    return data + bytes([number])


def block(*entries, restarts=b"\0\0\0\0\1\0\0\0") -> bytes:
    """A block's contents. An entry: (key, value), or (bytes shared, the key's others, value)."""
    data = b""
    for *shared, key, value in entries:
        data += varint(*shared or [0]) + varint(len(key)) + varint(len(value)) + key + value
    return data + restarts


def stored(contents: bytes, compression=0) -> bytes:
    """A block as it is in the file, with its trailer."""
    data = contents + bytes([compression])
    return data + masked(crc32c(data)).to_bytes(4, "little")


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def table(*blocks, index=None, footer=None, compression=0) -> bytes:
    """A file. ``blocks``: (the key that the index ends it with, its contents).

    Instead of what follows from them: ``index``, the index block's contents; ``footer``, 40 bytes.
    """
    data, entries = b"", []
    for limit, contents in blocks:
        entries.append((limit, handle(len(data), len(contents))))
        data += stored(contents, compression)
    handles = b""
    for contents in (block(), block(*entries) if index is None else index):
        handles += handle(len(data), len(contents))
        data += stored(contents)
    return data + (handles.ljust(40, b"\0") if footer is None else footer) + MAGIC


# Records


def field(number: int, value) -> bytes:
    """A field of a message: a varint, or bytes."""
    if isinstance(value, bytes):
        return bytes([8 * number + 2]) + varint(len(value)) + value
    return bytes([8 * number]) + varint(value)


def header(shards=1, more=b"", version=b"\x08\x01") -> bytes:
    return field(1, shards) + field(3, version) + more


def record(dtype=1, sizes=(8,), shard=0, offset=0, size=32, crc=0, more=b"") -> bytes:
    """One tensor's. ``sizes``: numbers, or the shape's message."""
    shape = sizes if isinstance(sizes, bytes) else b"".join(field(2, field(1, size)) for size in sizes)
    data = b"".join(field(*pair) for pair in ((1, dtype), (2, shape), (3, shard), (4, offset), (5, size)))
    return data + b"\x35" + crc.to_bytes(4, "little") + more
