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
    """float32 -> bfloat16, as uint16: rounded to the nearest; a tie goes to the even one.

    >>> bf16_to_f32(f32_to_bf16(np.array([1.0, 3.14159], np.float32)))
    array([1.      , 3.140625], dtype=float32)
    """
    bits = np.ascontiguousarray(elements, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = (bits + (0x7FFF + odd)) >> 16
    # Rounding would carry the NaN with the most bits set into the sign, and others into infinity.
    return np.where(np.isnan(bits.view(np.float32)), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def bf16_pieces(x: np.ndarray, count: int) -> list[np.ndarray]:
    """float32 x -> ``count`` arrays of bfloat16 numbers, as float32, whose sum is x, or as near to it as so many come.

    Each is what the ones before it leave, rounded; a number below 1.2e-38, the smallest normal one, counts as 0.
    Infinity and NaN are in the last piece; the first one is 1, with their sign. docs/three-pieces.md says why, and how
    exact the pieces are.

    >>> [piece.item() for piece in bf16_pieces(np.float32(3.1415927), 3)]
    [3.140625, 0.00096893310546875, -1.1920928955078125e-06]
    >>> [piece.item() for piece in bf16_pieces(np.float32(-np.inf), 3)]
    [-1.0, 0.0, -inf]
    """
    x = np.asarray(x, np.float32)
    if count == 1:
        return [_rounded(x)]
    is_finite = np.isfinite(x)
    rest, pieces = np.where(is_finite, x, np.copysign(np.float32(1), x)), []
    for piece in range(count):
        largest = bf16_to_f32(np.array(0x7F7F, np.uint16))  # above it, the first piece would be infinity
        part = np.clip(rest, -largest, largest) if piece == 0 else rest
        pieces.append(_rounded(part if piece < count - 1 else np.where(is_finite, part, x)))
        rest = rest - np.where(is_finite, pieces[-1], rest)
    return pieces


def _rounded(x):
    rounded = bf16_to_f32(f32_to_bf16(x))
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), rounded)
