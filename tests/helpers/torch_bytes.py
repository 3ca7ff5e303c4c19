"""Files of the forms that torch.save writes, put together by hand, so that anything in them can be wrong.

A pickle is made of the functions int_, text, tuple_, ..., each of which gives the bytes that push one object.
"""

import struct
import zlib

import numpy as np

from npgpt.checkpoints.pytorch.file import read
from npgpt.checkpoints.shared.mmap_file import MappedFile

START, STOP = b"\x80\x02", b"."
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"


def int_(number: int) -> bytes:
    if 0 <= number < 256:
        return b"K" + bytes([number])
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def text(string: str) -> bytes:
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def ints(*numbers: int) -> bytes:
    return tuple_(*map(int_, numbers))


def list_(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def global_(name: str) -> bytes:
    return b"c" + "\n".join(name.rsplit(".", 1)).encode() + b"\n"


def call(name: str, *arguments: bytes) -> bytes:
    return global_(name) + tuple_(*arguments) + b"R"


HOOKS = global_("collections.OrderedDict") + b")R"


def storage(key="0", count=6, kind="torch.FloatStorage", device="cpu", view: bytes | None = None) -> bytes:
    """``view``: the legacy form's further field."""
    extra = [] if view is None else [view]
    return tuple_(text("storage"), global_(kind), text(key), text(device), int_(count), *extra) + b"Q"


def tensor(of: bytes | None = None, offset=0, size=(2, 3), stride=(3, 1), **others: bytes) -> bytes:
    """offset, size, stride: numbers, or any object's bytes. ``others``: requires_grad, hooks; what else is added."""
    arguments = {
        "storage": storage() if of is None else of,
        "offset": offset if isinstance(offset, bytes) else int_(offset),
        "size": size if isinstance(size, bytes) else ints(*size),
        "stride": stride if isinstance(stride, bytes) else ints(*stride),
        "requires_grad": FALSE,
        "hooks": HOOKS,
    }
    return call("torch._utils._rebuild_tensor_v2", *{**arguments, **others}.values())


def pickled(value: bytes) -> bytes:
    return START + value + STOP


def zipped(members: dict[str, bytes], **lies) -> bytes:
    """An archive. ``lies``, of the last member: method, crc, packed, size, offset, attributes."""
    data, directory = b"", b""
    for stored_name, content in members.items():
        name = stored_name.rstrip("*").encode()  # a name can be given twice, with a * after it
        fields = {"method": 0, "crc": zlib.crc32(content), "packed": len(content), "size": len(content)}
        fields |= {"offset": len(data), "attributes": 0} | (lies if stored_name == [*members][-1] else {})
        method, crc, packed, size, offset, attributes = fields.values()
        padding = bytes(-(len(data) + 30 + len(name)) % 64)
        common = (method, 0, 0, crc, packed, size, len(name))
        data += struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x0800, *common, len(padding)) + name + padding + content
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, 0x0800, *common, 0, 0, 0, 0, attributes, offset) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(data), 0)
    return data + directory + end


NUMBERS = np.arange(6, dtype="<f4").tobytes()
GOOD = dict_({"a": tensor()})


def zip_members(value: bytes = GOOD, storages: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """What torch.save puts into the archive; ``value`` is the pickled object."""
    data = {f"x/data/{key}": numbers for key, numbers in (storages or {"0": NUMBERS}).items()}
    return {"x/data.pkl": pickled(value), "x/byteorder": b"little", **data, "x/version": b"3\n"}


def zip_file(value: bytes = GOOD, storages: dict[str, bytes] | None = None) -> bytes:
    return zipped(zip_members(value, storages))


MAGIC = int_(0x1950A86A20F9469CFC6C)
MACHINE = dict_({"protocol_version": int_(1001), "little_endian": TRUE, "type_sizes": dict_({"int": int_(4)})})
LEGACY_GOOD = dict_({"a": tensor(storage(view=NONE))})


def legacy_file(
    value: bytes = LEGACY_GOOD,
    keys: bytes | None = None,
    data: bytes | None = None,
    protocol: bytes = int_(1001),
) -> bytes:
    """``keys``: the pickled list; ``data``: what follows, for each storage its length and its numbers."""
    keys = list_(text("0")) if keys is None else keys
    data = counted(NUMBERS, 6) if data is None else data
    return b"".join(map(pickled, (MAGIC, protocol, MACHINE, value, keys))) + data


def counted(numbers: bytes, count: int) -> bytes:
    return struct.pack("<Q", count) + numbers


def of(storage_bytes: bytes) -> bytes:
    """A dict of one tensor, of this storage."""
    return dict_({"a": tensor(storage_bytes)})


def as_legacy(value: bytes) -> bytes:
    """The same object with the legacy form's persistent ids, which have one more field."""
    return value.replace(b"tQ", NONE + b"tQ")


def read_torch(path):
    """-> the object, the mapped file."""
    file = MappedFile(path)
    return read(file), file
