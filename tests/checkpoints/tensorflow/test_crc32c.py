"""CRC-32C: published vectors, and the sparse multiples against a division bit by bit."""

import numpy as np
import pytest

from npgpt.checkpoints.tensorflow import crc32c as module
from npgpt.checkpoints.tensorflow.crc32c import FAR, NEAR, crc32c, masked

P = 0x11EDC6F41  # x^32 is the highest bit


def modulo(bits: int) -> int:
    """A polynomial's remainder."""
    while bits.bit_length() > 32:
        bits ^= P << bits.bit_length() - 33
    return bits


def reversed_bits(number: int, width: int) -> int:
    return int(f"{number:0{width}b}"[::-1], 2)


def by_division(data: bytes) -> int:
    """The definition: the message with its first bits inverted, times x^32, divided by P."""
    message = reversed_bits(int.from_bytes(data, "little"), 8 * len(data)) if data else 0
    ones = 0xFFFFFFFF << 8 * len(data)
    return reversed_bits(modulo(message << 32 ^ ones), 32) ^ 0xFFFFFFFF


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
    assert by_division(data) == crc32c(data) == crc32c(np.frombuffer(data, np.uint8)) == expected


@pytest.mark.parametrize("distances", [FAR, NEAR])
def test_the_multiples_are_multiples(distances):
    """A word at y^last is also at y^(last - distance), for each: the sum of all is 0 modulo P."""
    last = max(distances)
    assert len(set(distances)) == len(distances)
    assert min(distances) == distances[0]
    assert last == distances[-1]
    assert modulo(sum(1 << 64 * power for power in [last, *(last - distance for distance in distances)])) == 0


def test_every_length_at_every_place_in_memory():
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8)
    for begin in range(17):
        for length in range(70):
            part = data[begin : begin + length]
            assert crc32c(part) == by_division(part.tobytes()), (begin, length)


@pytest.mark.parametrize("piece", [1, 5, 300, 8000, 1 << 17])
@pytest.mark.parametrize("words", [0, 1, 265, 266, 267, 389, 6776, 6777, 6778, 13_070, 13_071, 20_000])
def test_lengths_around_the_distances(monkeypatch, piece, words):
    monkeypatch.setattr(module, "_PIECE", max(piece, words // 50))
    data = np.random.default_rng(words).integers(0, 256, 8 * words + 3, np.uint8)
    assert crc32c(data[:-3]) == module._remainder(data[:-3].tobytes(), 0xFFFFFFFF) ^ 0xFFFFFFFF
    assert crc32c(data) == module._remainder(data.tobytes(), 0xFFFFFFFF) ^ 0xFFFFFFFF


def test_the_data_stay_as_they_are():
    data = np.arange(100_000).astype(np.uint8)
    data.flags.writeable = False
    crc32c(data)
    assert (data == np.arange(100_000).astype(np.uint8)).all()


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
