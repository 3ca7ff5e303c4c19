"""CRC-32C, the checksum in TensorFlow's files: the remainder of the bytes, as a polynomial over GF(2), modulo

    P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 + x^9 + x^8
        + x^6 + 1

The first byte has the highest powers of x, and its lowest bit the highest of them, so the remainder's bits are reversed
too. It starts as all ones and is inverted at the end. A table has the remainders of the lowest eight bits.

Source: RFC 3720, sections 12.1 and B.4 (polynomial, test vectors). LevelDB, doc/log_format.md (the mask).
"""

import numpy as np

from npgpt.kernels.jit import jit

_POLYNOMIAL = 0x82F63B78  # P without x^32, bits reversed

_TABLE: np.ndarray = np.arange(256, dtype=np.uint32)
for _ in range(8):
    _TABLE = _TABLE >> 1 ^ (_TABLE & 1) * np.uint32(_POLYNOMIAL)


def crc32c(data: np.ndarray | bytes) -> int:
    """The checksum of an array of bytes (n,), or of bytes."""
    return int(_remainder(np.frombuffer(data, np.uint8), _TABLE)) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The masked form in the file: rotated and offset, because CRCs of data containing CRCs are weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@jit
def _remainder(data, table):
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = np.uint32(crc >> np.uint32(8)) ^ table[np.uint8(crc) ^ byte]
    return crc
