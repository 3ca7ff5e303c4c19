"""CRC-32C: published vectors, and the fast one against the plain one."""

import numpy as np
import pytest

from npgpt.checkpoints.crc32c import crc32c, crc32c_plain, masked

# RFC 3720 (iSCSI), B.4, whose bytes are written from the lowest on; and the check value of every catalogue of CRCs.
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (bytes([255] * 32), 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (
        bytes.fromhex("01c00000000000000000000000000000 14000000 00000400 00000014 00000018 2800000000000000 02000000")
        + bytes(4),
        0xD9963A56,
    ),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_vectors(data, expected):
    assert crc32c_plain(data) == expected
    assert crc32c(np.frombuffer(data, np.uint8)) == expected


def test_every_length_at_every_place_in_memory():
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8)
    for begin in range(17):
        for length in range(70):
            part = data[begin : begin + length]
            assert crc32c(part) == crc32c_plain(part.tobytes()), (begin, length)


def test_each_bit_matters():
    data = np.random.default_rng(1).integers(0, 256, 1000, np.uint8)
    right = crc32c(data)
    for bit in range(0, 8000, 37):
        data[bit // 8] ^= 1 << bit % 8
        assert crc32c(data) != right, bit
        data[bit // 8] ^= 1 << bit % 8
    assert crc32c(data) == right


def test_masked():
    """As LevelDB's doc/log_format has it: turned right by 15 bits, plus a constant, modulo 2**32."""
    assert masked(0) == 0xA282EAD8
    assert masked(0x8000) == 0xA282EAD9
    assert masked(0x00000001) == (0x00020000 + 0xA282EAD8)
    assert masked(0xFFFFFFFF) == 0xA282EAD7
