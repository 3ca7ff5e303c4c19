"""CRC-32C, the checksum in TensorFlow's files: bytes as a polynomial over GF(2), and what is left of it modulo P.

    P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 + x^9 + x^8
        + x^6 + 1

The lowest bit of a byte is its highest power of x, and so the remainder's bits are reversed too. It starts as all ones
and is inverted at the end, so that zeros in front and behind are noticed.

Byte by byte, the remainder's lowest eight bits are what has to be divided away next; a table has their remainders:

    crc = (crc >> 8) ^ T[0][(crc ^ byte) & 255]

Division is linear, so the bytes of a word can be looked up each by itself, in T[k], which has the remainders of a byte
with k bytes after it: T[k][b] = (T[k - 1][b] >> 8) ^ T[0][T[k - 1][b] & 255]. One after the other then are only the
words.

Source: RFC 3720, section 12.1 and B.4 (polynomial, test vectors); Kounavis & Berry 2005, "A systematic approach to
building high performance software-based CRC generators" (several tables); the masks are those of LevelDB's log format.
"""

import numpy as np

from npgpt.kernels.jit import jit

_POLYNOMIAL = 0x82F63B78  # P without x^32, bits reversed


def _tables(count: int) -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = (crc >> 1) ^ np.where(crc & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    tables = [crc]
    for _ in range(count - 1):
        crc = (crc >> 8) ^ tables[0][crc & 255]
        tables.append(crc)
    return np.stack(tables)


_TABLES = _tables(16)
_TABLE = _TABLES[0].tolist()


def crc32c_plain(data: bytes) -> int:
    """Byte by byte: the definition, and for a few thousand bytes done before a kernel is loaded."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def crc32c(data: np.ndarray) -> int:
    """The same of an array of bytes (n,), sixteen at a time. They may begin anywhere in memory."""
    head = min(-data.ctypes.data % 8, data.size)  # bytes in front of the first aligned word
    words = (data.size - head) // 16 * 2
    middle = data[head : head + 8 * words].view(np.uint64)
    return int(_crc32c_numba(data[:head], middle, data[head + 8 * words :], _TABLES))


def masked(crc: int) -> int:
    """As it is stored: turned and shifted, for a checksum over data that hold checksums is a weak one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@jit
def _crc32c_numba(head, words, tail, T):
    """head (h,) bytes, words (2 n,) of eight bytes, tail (t,) bytes, T (16, 256)."""
    byte = np.uint64(255)
    crc = np.uint64(0xFFFFFFFF)
    for i in range(head.size):
        crc = (crc >> np.uint64(8)) ^ T[0, (crc ^ head[i]) & byte]
    for i in range(words.size // 2):
        a = words[2 * i] ^ crc
        b = words[2 * i + 1]
        crc = np.uint64(0)
        for k in range(8):
            shift = np.uint64(8 * k)
            crc ^= T[15 - k, (a >> shift) & byte] ^ T[7 - k, (b >> shift) & byte]
    for i in range(tail.size):
        crc = (crc >> np.uint64(8)) ^ T[0, (crc ^ tail[i]) & byte]
    return crc ^ np.uint64(0xFFFFFFFF)
