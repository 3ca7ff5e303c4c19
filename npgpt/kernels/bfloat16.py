"""bfloat16, for which NumPy has no dtype: the upper half of a float32, its sign, exponent and 7 bits of mantissa."""

import numpy as np


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """bfloat16, as uint16, -> float32; exact.

    >>> bf16_to_f32(np.array([0x3F80, 0xC000], np.uint16))
    array([ 1., -2.], dtype=float32)
    """
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def f32_to_bf16(elements: np.ndarray) -> np.ndarray:
    """float -> bfloat16, as uint16: rounded to the nearest; a tie goes to the even one.

    >>> bf16_to_f32(f32_to_bf16(np.array([1.0, 3.14159], np.float32)))
    array([1.      , 3.140625], dtype=float32)
    """
    bits = np.ascontiguousarray(elements, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = (bits + (0x7FFF + odd)) >> 16
    # Rounding would carry the NaN with the most bits set into the sign, and others into infinity.
    return np.where(np.isnan(bits.view(np.float32)), (bits >> 16) | 0x40, rounded).astype(np.uint16)
