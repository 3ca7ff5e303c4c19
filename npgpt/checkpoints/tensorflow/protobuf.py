"""Protocol buffers, as far as small records of numbers need them: a message is a row of tagged fields.

    tag     field number * 8 + wire type, a varint
    value   wire type 0: a varint; 2: a varint n and n bytes, which may be a message; 5: four bytes, little-endian

A varint has seven bits to a byte, the lowest first; the highest bit says that another byte follows. Fields that are not
there are zero or empty. Protobuf itself skips fields that it doesn't know and takes the last of a field given twice;
here both are refused, because what is meant is unknown.

Source: protobuf.dev/programming-guides/encoding.
"""

from typing import Any

from npgpt.errors import CheckpointError

VARINT, BYTES, FIXED32 = 0, 2, 5


def varint(data: bytes, position: int, place: str) -> tuple[int, int]:
    """-> the number below 2**64 that begins at ``position``, and where it ends. Raises CheckpointError."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise CheckpointError(f"{place}: a number is cut off at byte {position:,}")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128 and value < 2**64:
            return value, position
    raise CheckpointError(f"{place}: a number that ends at byte {position:,} or later is too large")


def parse_message(data: bytes, fields: dict[int, tuple[str, int]], place: str, repeated: str = "") -> dict:
    """Parse one message.

    fields      {number below 16: (name, wire type)}
    repeated    the name of the field that may be there several times: its value is a list

    -> {name: int or bytes}, without those that are not there; varints from 0 up to 2**64 - 1. Raises CheckpointError.
    """
    found: dict[str, Any] = {repeated: []} if repeated else {}
    position = 0
    while position < len(data):
        number, wire = divmod(data[position], 8)  # a tag below 16 * 8 is one byte
        name, expected = fields.get(number, ("", None))
        if wire != expected:
            raise CheckpointError(f"{place}: unknown field {number} of type {wire} at byte {position:,}")
        position += 1
        value: int | bytes
        if wire == VARINT:
            value, position = varint(data, position, place)
        else:
            length, position = varint(data, position, place) if wire == BYTES else (4, position)
            field = data[position : position + length]
            if len(field) < length:
                raise CheckpointError(f"{place}: {name} takes {length:,} bytes, and {len(field):,} are left")
            position += length
            value = int.from_bytes(field, "little") if wire == FIXED32 else field
        if name == repeated:
            found[name].append(value)
        elif name in found:
            raise CheckpointError(f"{place}: {name} is there twice")
        else:
            found[name] = value
    return found
