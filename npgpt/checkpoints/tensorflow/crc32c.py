"""CRC-32C, the checksum in TensorFlow's files: bytes as a polynomial over GF(2), and what is left of it modulo P.

    P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 + x^9 + x^8
        + x^6 + 1

The first byte has the highest powers of x, and its lowest bit the highest of them, so the remainder's bits are reversed
too. It starts as all ones and is inverted at the end, so that zeros in front and behind are noticed.

Byte by byte, the remainder's lowest eight bits are what has to be divided away next, and a table T has the remainders
that they leave:

    crc = (crc >> 8) ^ T[(crc ^ byte) & 255]

That is a step of Python for each byte. NumPy does many at a time, thanks to multiples of P with few terms, all of them
powers of y = x^64, which is one word of eight bytes:

    y^6777 + y^484 + y^100 + 1                     = 0  modulo P
    y^266 + y^143 + y^121 + y^88 + y^71 + 1        = 0  modulo P

By the first, a word may be taken away if it is added (which is ^) to the words 6777 - 484, 6777 - 100 and 6777 places
after it. The first of these is 6293 places away, so that many neighbours can be moved at once. In the end 6777 words
are left, with the remainder of all; the second brings them down to 266, and the table these to the remainder.

Source: RFC 3720, sections 12.1 and B.4 (polynomial, test vectors). Russell 2024, "Chorba: A novel CRC32
implementation", arXiv:2412.16398 (such multiples instead of tables; these two come from a search through y's first
powers, and a test holds that they are multiples). LevelDB, doc/log_format.md (the mask).
"""

import numpy as np

_POLYNOMIAL = 0x82F63B78  # P without x^32, bits reversed
# How many words later a word is added instead.
FAR = (6293, 6677, 6777)
NEAR = (123, 145, 178, 195, 266)
_WORD = np.dtype("<u8")
_PIECE = 1 << 17  # words in memory at a time

_TABLE = list(range(256))
for _ in range(8):
    _TABLE = [crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0) for crc in _TABLE]


def crc32c(data: np.ndarray | bytes) -> int:
    """The checksum of an array of bytes (n,), which may begin anywhere in memory, or of bytes."""
    data = np.frombuffer(data, np.uint8)
    end = data.size // 8 * 8
    words = np.zeros(0, _WORD)
    for begin in range(0, end, 8 * _PIECE):
        words = np.concatenate([words, data[begin : min(begin + 8 * _PIECE, end)].view(_WORD)])
        if begin == 0:
            words[0] ^= 0xFFFFFFFF
        words = _moved(words, FAR)
    crc = _remainder(_moved(words, NEAR).tobytes(), 0 if end else 0xFFFFFFFF)
    return _remainder(data[end:].tobytes(), crc) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """As it is stored: turned and shifted, for a checksum over data that hold checksums is a weak one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _moved(words: np.ndarray, distances: tuple[int, ...]) -> np.ndarray:
    """Words with the same remainder, as many as the largest distance. Those that are given are written over."""
    leaving = max(words.size - distances[-1], 0)
    for begin in range(0, leaving, distances[0]):
        block = words[begin : min(begin + distances[0], leaving)]
        for distance in distances:
            words[begin + distance : begin + distance + block.size] ^= block
    return words[leaving:]


def _remainder(data: bytes, crc: int) -> int:
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc
