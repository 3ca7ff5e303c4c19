"""CRC-32C: published vectors, and random bytes against a division bit by bit."""

import numpy as np
import pytest

from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked


def by_division(data: bytes) -> int:
    """The definition: the message with its first bits inverted, times x^32, divided by P, whose x^32 is bit 32."""
    message = int(f"{int.from_bytes(data, 'little'):0{8 * len(data)}b}"[::-1], 2) if data else 0
    bits = message << 32 ^ 0xFFFFFFFF << 8 * len(data)
    while bits.bit_length() > 32:
        bits ^= 0x11EDC6F41 << bits.bit_length() - 33
    return int(f"{bits:032b}"[::-1], 2) ^ 0xFFFFFFFF


# RFC 3720 (iSCSI), B.4, whose bytes are written from the lowest on; and the check value of every catalogue of CRCs.
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (bytes([255] * 32), 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_vectors(data, expected):
    assert by_division(data) == crc32c(data) == crc32c(np.frombuffer(data, np.uint8)) == expected


def test_random_bytes_at_any_place_in_memory():
    data = np.random.default_rng(0).integers(0, 256, 300, np.uint8)
    data.flags.writeable = False
    for begin in range(9):
        assert crc32c(data[begin:]) == by_division(data[begin:].tobytes())


def test_masked():
    """As LevelDB's doc/log_format has it: turned right by 15 bits, plus a constant, modulo 2**32."""
    assert masked(0x8000) == 0xA282EAD9
    assert masked(0x00000001) == (0x00020000 + 0xA282EAD8)
    assert masked(0xFFFFFFFF) == 0xA282EAD7
