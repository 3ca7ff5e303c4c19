"""CRC-32C, the checksum in TensorFlow's files: the remainder of the bytes, as a polynomial over GF(2), modulo

    P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 + x^9 + x^8
        + x^6 + 1

The first byte has the highest powers of x, and its lowest bit the highest of them, so the remainder's bits are reversed
too. It starts as all ones and is inverted at the end. Byte by byte, a table T has the remainders of the lowest eight
bits:

    crc = (crc >> 8) ^ T[(crc ^ byte) & 255]

NumPy does this for LANES words of four bytes at a time: what is left of a word LANES words later can be looked up too,
for each of its halves, and is added (which is ^) to the word there. That takes 1 s for 500 MB.

Source: RFC 3720, sections 12.1 and B.4 (polynomial, test vectors). LevelDB, doc/log_format.md (the mask).
"""

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78  # P without x^32, bits reversed
LANES = 4096

_TABLE = list(range(256))
for _ in range(8):
    _TABLE = [crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0) for crc in _TABLE]


def crc32c(data: np.ndarray | bytes) -> int:
    """The checksum of an array of bytes (n,), which may begin anywhere in memory, or of bytes."""
    data = np.frombuffer(data, np.uint8)
    end = data.size // (4 * LANES) * 4 * LANES
    low, high = _halves_later()
    words = np.zeros(LANES, np.uint32)
    for begin in range(0, end, 4 * LANES):
        words = low[words & 0xFFFF] ^ high[words >> 16] ^ data[begin : begin + 4 * LANES].view("<u4")
        if begin == 0:
            words[0] ^= 0xFFFFFFFF
    crc = _remainder(words.astype("<u4").tobytes(), 0) if end else 0xFFFFFFFF
    return _remainder(data[end:].tobytes(), crc) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The masked form in the file: rotated and offset, because CRCs of data containing CRCs are weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _remainder(data: bytes, crc: int) -> int:
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc


@cache
def _halves_later() -> list[np.ndarray]:
    """For a word's low and high half, of each value (65536,): the remainder LANES words later."""
    bits, table = np.uint32(1) << np.arange(32, dtype=np.uint32), np.array(_TABLE, np.uint32)
    for _ in range(4 * LANES):
        bits = bits >> 8 ^ table[bits & 255]
    values = np.arange(1 << 16, dtype=np.uint32)
    return [
        np.bitwise_xor.reduce([(values >> i & 1) * bit for i, bit in enumerate(half)])
        for half in (bits[:16], bits[16:])
    ]
