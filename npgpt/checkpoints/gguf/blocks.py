"""Block types of llama.cpp, which store weights in 4 to 8 bits: all of them to float32, and float32 to Q8_0.

A row is cut into blocks. A block holds a scale d, in float16, and of each element j a small whole number q:

    Q8_0    32 elements in 34 bytes:     d, q 32 x int8
            element j = d * q[j]
    Q4_0    32 elements in 18 bytes:     d, q 16 bytes: 0 to 15 in their low halves, then 16 to 31 in their high halves
            element j = d * (q[j] - 8)
    Q6_K    256 elements in 210 bytes:   low 128 bytes, high 64 bytes, scale 16 x int8, d
            element j = d * scale[j // 16] * (q[j] - 32), q = low + 16 * high
            low     of each half of the block 64 bytes: 0 to 63 in their low halves, then 64 to 127 in their high halves
            high    of each half of the block 32 bytes: 0 to 31 in their lowest two bits, then 32 to 63, ...

Q6_K is here because llama-quantize stores the tied embedding of a Q4_0 model in it.
Source: ggml/src/ggml-common.h and ggml-quants.c of llama.cpp (dequantize_row_*, quantize_row_q8_0_ref).
"""

import numpy as np

BLOCKS = {
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
    "Q6_K": np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scale", "i1", 16), ("d", "<f2")]),
}
ELEMENTS = {"Q8_0": 32, "Q4_0": 32, "Q6_K": 256}  # in a block


def dequantize(blocks: np.ndarray, dtype: str) -> np.ndarray:
    """blocks (..., N) of BLOCKS[dtype] -> (..., N * ELEMENTS[dtype]) float32, to the bit as llama.cpp computes them."""
    scale = blocks["d"].astype(np.float32)[..., None]
    with np.errstate(invalid="ignore"):  # a damaged d may be infinite, and 0 * infinity is NaN, which is found later
        if dtype == "Q8_0":
            x = scale * blocks["q"]
        elif dtype == "Q4_0":
            x = scale * (_fields(blocks["q"], parts=1, bits=4) - np.int8(8))
        elif dtype == "Q6_K":
            q = _fields(blocks["low"], parts=2, bits=4) | _fields(blocks["high"], parts=2, bits=2) << 4
            x = (scale * blocks["scale"])[..., None] * (q - np.int8(32)).reshape(*blocks.shape, 16, 16)
        else:
            raise ValueError(f"no block type {dtype}")
    return x.reshape(*blocks.shape[:-1], -1)


def quantize(x: np.ndarray) -> np.ndarray:
    """x (..., 32 N) -> (..., N) of BLOCKS["Q8_0"], to the bit as llama.cpp's and gguf-py's.

    d = max |x| / 127 and q = x / d, rounded to the nearest, halves away from 0; both in float32.
    Raises ValueError if an element is not finite, or too large for a float16 scale.
    """
    x = np.asarray(x, np.float32).reshape(*x.shape[:-1], -1, 32)
    d = np.abs(x).max(axis=-1, keepdims=True) / 127
    blocks = np.empty(d.shape[:-1], BLOCKS["Q8_0"])
    with np.errstate(all="ignore"):
        blocks["d"] = d[..., 0]
        if not np.isfinite(blocks["d"]).all():
            raise ValueError("NaN, infinity, or a number too large for Q8_0")
        inverse = 1 / d
        inverse[~np.isfinite(inverse)] = 0  # of 0, and of what is 0 in float16 anyway
        x = x * inverse
    whole = np.trunc(x)
    blocks["q"] = whole + np.trunc(2 * (x - whole))
    return blocks


def _fields(packed: np.ndarray, parts: int, bits: int) -> np.ndarray:
    """(..., bytes), in so many parts -> (..., fields) int8: of each part first the lowest bits of all its bytes, ..."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = packed.reshape(*packed.shape[:-1], parts, 1, -1) >> shifts & np.uint8(2**bits - 1)
    return fields.reshape(*packed.shape[:-1], -1).view(np.int8)
