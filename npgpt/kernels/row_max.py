"""The maximum of a row, in a form that the compiler can vectorise.

A vectorised float maximum loses NaN; an integer maximum of the bit patterns keeps it. The bits of floats, read as
integers, are in the floats' order, except that negative ones run backwards: flipping all their bits but the sign
reverses them. NaN has bits above infinity's, so it is the largest of all. A NaN with its sign bit set is the smallest
instead, and the maximum is another element. The callers get NaN all the same, from computing with each element.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.jit import INLINED, jit


@jit
def _max_bits(bits, sign, all_but_sign, minus_infinity):
    """The bits of the largest element. ``sign`` is the position of the sign bit; all arguments are of one type."""
    largest = minus_infinity ^ all_but_sign
    for j in range(bits.size):
        largest = max(largest, bits[j] ^ ((bits[j] >> sign) & all_but_sign))
    return largest ^ ((largest >> sign) & all_but_sign)


@jit
def _max_float32(row):
    minus_infinity = np.float32(-np.inf).view(np.int32)
    bits = _max_bits(row.view(np.int32), np.int32(31), np.int32(0x7FFFFFFF), minus_infinity)
    return np.int32(bits).view(np.float32)


@jit
def _max_float64(row):
    minus_infinity = np.float64(-np.inf).view(np.int64)
    bits = _max_bits(row.view(np.int64), np.int64(63), np.int64(0x7FFFFFFFFFFFFFFF), minus_infinity)
    return np.int64(bits).view(np.float64)


def row_maximum(row: np.ndarray) -> np.floating:
    """The largest element of a contiguous row, for use inside jitted kernels; -infinity if the row is empty."""
    return row.max(initial=-np.inf)


@overload(row_maximum, jit_options=INLINED)
def _row_maximum(row):
    if row.dtype == types.float32:
        return lambda row: _max_float32(row)
    return lambda row: _max_float64(row)
