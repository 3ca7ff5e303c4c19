"""Protocol buffers, as far as small records of numbers need them: a message is a row of tagged fields.

    tag     field number * 8 + wire type, a varint
    value   wire type 0: a varint; 2: a varint n and n bytes, which may be a message; 5: four bytes, little-endian

A varint has seven bits to a byte, the lowest first; the highest bit says that another byte follows. Fields that are not
there are zero or empty. Protobuf itself skips fields that it doesn't know and takes the last of a field given twice;
here both are refused, because what is meant is unknown.

Source: protobuf.dev/programming-guides/encoding.
"""

from npgpt.errors import CheckpointError

VARINT, BYTES, FIXED32 = 0, 2, 5


def varint(data: bytes, position: int, limit: int, place: str) -> tuple[int, int]:
    """-> the number that begins at ``position``, and where it ends. It must be below ``limit``."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise CheckpointError(f"{place}: a number is cut off at byte {position:,}")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if value >= limit or shift > 70:
            raise CheckpointError(f"{place}: a number that ends at byte {position:,} or later is too large")
        if byte < 128:
            return value, position


def parse_message(data: bytes, fields: dict[int, tuple[str, int]], repeated: set[str], place: str) -> dict:
    """Parse one message.

    fields      {number below 16: (name, wire type)}
    repeated    the names of those that may be there several times: their values are a list
    place       begins every message

    -> {name: int or bytes}, without those that are not there; varints from 0 up to 2**64 - 1. Raises CheckpointError.
    """
    found = {name: [] for name in repeated}
    position = 0
    while position < len(data):
        number, wire = divmod(data[position], 8)  # a tag below 16 * 8 is one byte
        name, expected = fields.get(number, ("", None))
        if wire != expected:
            raise CheckpointError(f"{place}: unknown field {number} of type {wire} at byte {position:,}")
        position += 1
        if wire == VARINT:
            value, position = varint(data, position, 2**64, place)
        else:
            length = 4
            if wire == BYTES:
                length, position = varint(data, position, 2**31, place)
            value = data[position : position + length]
            if len(value) < length:
                raise CheckpointError(f"{place}: {name} takes {length:,} bytes, and {len(value):,} are left")
            position += length
            if wire == FIXED32:
                value = int.from_bytes(value, "little")
        if name in repeated:
            found[name].append(value)
        elif name in found:
            raise CheckpointError(f"{place}: {name} is there twice")
        else:
            found[name] = value
    return found
