"""Tables and TensorFlow's records, written by hand, right or wrong."""

from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked
from npgpt.checkpoints.tensorflow.leveldb import MAGIC


def varint(number: int) -> bytes:
    number %= 2**64
    data = b""
    while number > 127:
        data += bytes([number % 128 + 128])
        number //= 128
    return data + bytes([number])


def block(*entries, restarts=(0,), count=None) -> bytes:
    """A block's contents. An entry: (key, value), or (bytes shared, the key's others, value)."""
    data = b""
    for *shared, key, value in entries:
        data += varint(*shared or [0]) + varint(len(key)) + varint(len(value)) + key + value
    return data + ends(*restarts, count=count)


def ends(*restarts, count=None) -> bytes:
    """What a block ends with."""
    return b"".join(x.to_bytes(4, "little") for x in [*restarts, len(restarts) if count is None else count])


def stored(contents: bytes, compression=0, crc=None) -> bytes:
    """A block as it is in the file, with its trailer."""
    data = contents + bytes([compression])
    return data + (masked(crc32c(data)) if crc is None else crc).to_bytes(4, "little")


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def table(*blocks, index=None, metaindex=None, footer=None, between=b"", hole=b"") -> bytes:
    """A file. ``blocks``: (the key that the index ends it with, its contents); contents may be stored already.

    Instead of what follows from them: ``index`` and ``metaindex``, contents or stored; ``footer``, 40 bytes;
    ``between`` the first block and the next, and before the footer, a ``hole``.
    """
    data, entries = b"", []
    for limit, contents in blocks:
        contents = contents if isinstance(contents, Stored) else Stored(stored(contents))
        entries.append((limit, handle(len(data), len(contents.data) - 5)))
        data += contents.data + (between if len(entries) == 1 else b"")
    index = block(*entries) if index is None else index(entries) if callable(index) else index
    handles = b""
    for contents in (metaindex if metaindex is not None else block(), index):
        contents = contents if isinstance(contents, Stored) else Stored(stored(contents))
        handles += handle(len(data), len(contents.data) - 5)
        data += contents.data
    return data + hole + (handles.ljust(40, b"\0") if footer is None else footer) + MAGIC


class Stored:
    """Bytes that have their trailer already."""

    def __init__(self, data: bytes):
        self.data = data


# Records


def field(number: int, value) -> bytes:
    """A field of a message: a varint, or bytes."""
    if isinstance(value, bytes):
        return bytes([8 * number + 2]) + varint(len(value)) + value
    return bytes([8 * number]) + varint(value)


def header(shards=1, endianness=None, version=b"\x08\x01", more=b"") -> bytes:
    data = field(1, shards) if shards is not None else b""
    return data + (b"" if endianness is None else field(2, endianness)) + field(3, version) + more


def shape(*sizes) -> bytes:
    return b"".join(field(2, field(1, size)) for size in sizes)


def record(dtype=1, sizes=(8,), shard=None, offset=None, size=32, crc=None, more=b"") -> bytes:
    """One tensor's. ``sizes``: numbers, or the shape's message."""
    data = field(1, dtype) if dtype is not None else b""
    data += field(2, sizes if isinstance(sizes, bytes) else shape(*sizes))
    for number, value in ((3, shard), (4, offset), (5, size)):
        data += b"" if value is None else field(number, value)
    return data + (b"" if crc is None else b"\x35" + crc.to_bytes(4, "little")) + more
