"""The keys of a GGUF file and their values.

    a key       string name, u32 type, the value
    a string    u64 length, UTF-8
    an array    u32 type, u64 count, so many values of that type, which may be strings

A file of a language model holds its vocabulary here, some hundred thousand strings. So a value is stepped over, and
looked at when it is asked for. Nothing is believed: a length is checked against the file before anything is made of it.
Arrays of arrays, which the format allows, are refused, as in llama.cpp.
"""

import struct
from typing import NamedTuple

import numpy as np

from npgpt.checkpoints.shared.mmap_file import Cursor, MappedFile
from npgpt.errors import CheckpointError

# Real files have some dozen keys, and up to 20 MB of metadata. These bound time and memory.
MAX_KEYS = 10_000
MAX_KEY_BYTES = 1024
MAX_BYTES = 64 << 20
MAX_TEXT_BYTES = 5 << 20  # of a string that is made into Python's, four times as large; Unicode's characters are 4.4 MB

# In the order of their numbers. Scalar types are called as in NumPy.
_TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool"]
_TYPES += ["string", "array", "uint64", "int64", "float64"]
_NUMBERS = {type: np.dtype(type).newbyteorder("<") for type in _TYPES if type not in ("string", "array")}
_LENGTH = struct.Struct("<Q")


class _Value(NamedTuple):
    """A value's place: ``length`` of ``type``, such as "uint32" or "array of uint32", from ``begin`` up to ``end``."""

    type: str
    length: int
    begin: int
    end: int


class Metadata:
    """A file's keys, by which values are asked for. One that is not there, or of another type, is a CheckpointError."""

    def __init__(self, file: MappedFile, values: dict[str, _Value]):
        self._file = file
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def number(self, key: str, type: str) -> int | float | bool:
        """A number of the type of that name. A float is the shortest decimal that gives the stored one: 1e-05."""
        found = self._file.array(self._value(key, type).begin, _NUMBERS[type], 1, key)[0]
        return float(str(found)) if found.dtype.kind == "f" else found.item()

    def text(self, key: str) -> str:
        value = self._value(key, "string")
        begin = value.begin + _LENGTH.size
        if value.end - begin > MAX_TEXT_BYTES:
            raise CheckpointError(f"{self._file.path}: key {key}: a string of {value.end - begin:,} bytes is too long")
        return decoded(self._file.take(begin, value.end - begin, key), f"{self._file.path}: key {key}")

    def strings(self, key: str) -> tuple[int, bytes]:
        """The number of an array's strings, and their bytes in the file, as ``packed_strings`` makes them."""
        value = self._value(key, "array of string")
        return value.length, self._file.take(value.begin, value.end - value.begin, key)

    def _value(self, key: str, type: str) -> _Value:
        place = f"{self._file.path}: key {key}"
        if key not in self._values:
            raise CheckpointError(f"{place} is not there")
        value = self._values[key]
        if value.type != type:
            raise CheckpointError(f"{place}: {type} was expected, and it is {value.type}")
        return value


def read_metadata(cursor: Cursor, count: int) -> Metadata:
    """Step over so many keys. Raises CheckpointError."""
    file = cursor.file
    if count > MAX_KEYS:
        raise CheckpointError(f"{file.path}: number of keys: {count:,}, and npgpt reads up to {MAX_KEYS:,}")
    data = file.array(0, np.uint8, min(file.size, MAX_BYTES), "metadata").data
    values = {}
    for number in range(count):
        key = read_name(cursor, MAX_KEY_BYTES, f"key {number + 1} of {count}")
        what = f"key {key[:100]!r}"
        place = f"{file.path}: {what}"
        if key in values:
            raise CheckpointError(f"{place} is there twice")
        type, items = _type(cursor.number("<u4", what), place), 1
        is_array = type == "array"
        if is_array:
            type, items = _type(cursor.number("<u4", what), place), cursor.number("<u8", what)
        begin = cursor.position
        cursor.position = _end(data, begin, type, items, place)
        values[key] = _Value(f"array of {type}" if is_array else type, items, begin, cursor.position)
    return Metadata(file, values)


def read_name(cursor: Cursor, longest: int, what: str) -> str:
    """The next string, which must not be empty. Raises CheckpointError."""
    place = f"{cursor.file.path}: {what}"
    length = cursor.number("<u8", what)
    if not 1 <= length <= longest:
        raise CheckpointError(f"{place}: a name of {length:,} bytes, and 1 to {longest:,} were expected")
    return decoded(cursor.take(length, what), place)


def decoded(data: bytes, place: str) -> str:
    """UTF-8 -> str. Raises CheckpointError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{place}: not UTF-8 at byte {error.start}") from None


def _type(number: int, place: str) -> str:
    if number >= len(_TYPES):
        raise CheckpointError(f"{place}: there is no type {number}")
    return _TYPES[number]


def _end(data: memoryview, begin: int, type: str, count: int, place: str) -> int:
    """The end of ``count`` values of a type. Stepping over one takes time only if it takes bytes in the file."""
    if type == "array":
        raise CheckpointError(f"{place}: arrays in an array, which are not read here")
    try:
        if type == "string":
            for _ in range(count):
                begin += _LENGTH.size + _LENGTH.unpack_from(data, begin)[0]
        else:
            begin += count * _NUMBERS[type].itemsize
    except (struct.error, OverflowError):  # there, and as an index, is nothing
        begin = len(data) + 1
    if begin > len(data):
        raise CheckpointError(f"{place}: it goes beyond {len(data):,} bytes: it is cut off, or damaged")
    return begin


# Writing


def packed_metadata(metadata: dict[str, str | int | float | list[str] | np.ndarray]) -> bytes:
    """Keys and values: int -> uint32, float -> float32, list of str -> array of string, array of int32 -> the same."""
    return b"".join(packed_strings([key]) + _packed(value) for key, value in metadata.items())


def packed_strings(strings: list[str]) -> bytes:
    """Strings one after the other."""
    return b"".join(_LENGTH.pack(len(string)) + string for string in map(str.encode, strings))


def _packed(value) -> bytes:
    if isinstance(value, str):
        return _number("string") + packed_strings([value])
    if isinstance(value, int):
        return _number("uint32") + struct.pack("<I", value)
    if isinstance(value, float):
        return _number("float32") + struct.pack("<f", value)
    if isinstance(value, list):
        return _number("array") + _number("string") + _LENGTH.pack(len(value)) + packed_strings(value)
    return _number("array") + _number("int32") + _LENGTH.pack(len(value)) + value.astype("<i4").tobytes()


def _number(type: str) -> bytes:
    return struct.pack("<I", _TYPES.index(type))
