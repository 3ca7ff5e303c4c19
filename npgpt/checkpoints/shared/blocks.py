"""Block types of llama.cpp, which store weights in 4 to 8 bits: to float32, and float32 to three of them.

A row is cut into blocks. A block holds a scale d, in float16, and of each element j a small whole number q:

    Q8_0    32 elements in 34 bytes:     d, q 32 x int8
            element j = d * q[j]
    Q4_0    32 elements in 18 bytes:     d, q 16 bytes: 0 to 15 in their low halves, then 16 to 31 in their high halves
            element j = d * (q[j] - 8)
    Q4_1    32 elements in 20 bytes:     d, m in float16, q as in Q4_0
            element j = d * q[j] + m
    Q5_0    32 elements in 22 bytes:     d, high 4 bytes: the fifth bit of each q, q as in Q4_0
            element j = d * (q[j] - 16)
    Q5_1    32 elements in 24 bytes:     d, m in float16, high as in Q5_0, q as in Q4_0
            element j = d * q[j] + m
    Q6_K    256 elements in 210 bytes:   low 128 bytes, high 64 bytes, scale 16 x int8, d
            element j = d * scale[j // 16] * (q[j] - 32), q = low + 16 * high
            low     of each half of the block 64 bytes: 0 to 63 in their low halves, then 64 to 127 in their high halves
            high    of each half of the block 32 bytes: 0 to 31 in their lowest two bits, then 32 to 63, ...

Q8_0, Q4_0 and Q6_K are written; llama-quantize stores the vocabulary head of a Q4_0 model in Q6_K. The others are read.
Source: ggml/src/ggml-common.h and ggml-quants.c of llama.cpp (dequantize_row_*, quantize_row_*_ref, make_qx_quants).
"""

import numpy as np

from npgpt.kernels.packed import quantize as quantize_blocks

BLOCKS = {
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]),
    "Q5_0": np.dtype([("d", "<f2"), ("high", "u1", 4), ("q", "u1", 16)]),
    "Q5_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("q", "u1", 16)]),
    "Q6_K": np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scale", "i1", 16), ("d", "<f2")]),
}
ELEMENTS = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q6_K": 256}  # in a block


def dequantize(blocks: np.ndarray, dtype: str) -> np.ndarray:
    """blocks (..., N) of BLOCKS[dtype] -> (..., N * ELEMENTS[dtype]) float32, to the bit as llama.cpp computes them."""
    scale = _of_each(blocks["d"])
    with np.errstate(invalid="ignore"):  # a damaged d may be infinite, and 0 * infinity is NaN, which is found later
        if dtype == "Q8_0":
            x = scale * blocks["q"]
        elif dtype == "Q4_0":
            x = scale * (_fields(blocks["q"], parts=1, bits=4) - np.int8(8))
        elif dtype == "Q4_1":
            x = scale * _fields(blocks["q"], parts=1, bits=4) + _of_each(blocks["m"])
        elif dtype == "Q5_0":
            x = scale * (_five_bits(blocks) - np.int8(16))
        elif dtype == "Q5_1":
            x = scale * _five_bits(blocks) + _of_each(blocks["m"])
        elif dtype == "Q6_K":
            q = _fields(blocks["low"], parts=2, bits=4) | _fields(blocks["high"], parts=2, bits=2) << 4
            x = (scale * blocks["scale"])[..., None] * (q - np.int8(32)).reshape(*blocks.shape, 16, 16)
        else:
            raise ValueError(f"no block type {dtype}")
    return x.reshape(*blocks.shape[:-1], -1)


def _of_each(numbers):
    """A float16 of each block, (...,) -> (..., 1) float32."""
    return numbers.astype(np.float32)[..., None]


def _fields(packed: np.ndarray, parts: int, bits: int) -> np.ndarray:
    """(..., bytes), in so many parts -> (..., fields) int8: of each part first the lowest bits of all its bytes, ..."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = packed.reshape(*packed.shape[:-1], parts, 1, -1) >> shifts & np.uint8(2**bits - 1)
    return fields.reshape(*packed.shape[:-1], -1).view(np.int8)


def _five_bits(blocks: np.ndarray) -> np.ndarray:
    """The q (..., 32) int8 of Q5_0 and Q5_1, 0 to 31."""
    fifth = np.unpackbits(blocks["high"], axis=-1, bitorder="little")
    return _fields(blocks["q"], parts=1, bits=4) | fifth.view(np.int8) << 4


def quantize(x: np.ndarray, dtype: str) -> np.ndarray:
    """x (..., N * ELEMENTS[dtype]) -> (..., N) of BLOCKS[dtype], which is Q8_0, Q4_0 or Q6_K, all in float32.

    Q8_0 and Q4_0 are to the bit llama.cpp's and gguf-py's. Raises ValueError if an element is not finite, or too large
    for a float16 scale.
    """
    x = np.asarray(x, np.float32).reshape(*x.shape[:-1], -1, ELEMENTS[dtype])
    if not np.isfinite(x).all():
        raise ValueError(f"NaN or infinity, which {dtype} doesn't hold")
    with np.errstate(all="ignore"):  # d may be 0, and numbers so small that their squares are
        if dtype == "Q8_0":
            return _to_q8_0(x)
        if dtype == "Q4_0":
            return _to_q4_0(x)
        if dtype == "Q6_K":
            return _to_q6_k(x)
    raise ValueError(f"{dtype} is not written")


def _to_q8_0(x):
    q, blocks = _quantized(x, "int8", "Q8_0")
    blocks["q"] = q
    return blocks


def _to_q4_0(x):
    q, blocks = _quantized(x, "int4", "Q4_0")
    q = q.view(np.uint8)
    blocks["q"] = q[..., :16] | q[..., 16:] << 4
    return blocks


def _quantized(x, format, dtype):
    """x (..., N, 32) -> q (..., N, 32) of int8, and blocks (..., N) that have their scales. Raises ValueError."""
    try:
        q, d = quantize_blocks(x.reshape(-1, 32), format)
    except ValueError:
        raise ValueError(f"a number too large for {dtype}") from None
    return q.reshape(x.shape), _with_scales(d.reshape(*x.shape[:-1], 1), dtype)


def _to_q6_k(x):
    """The largest of the 16 scales that _fitted_scales finds becomes -128. Raises ValueError."""
    if (np.abs(x) > float(np.finfo(np.float16).max) * 128 * 32).any():  # of larger ones x^3 may be beyond float32
        raise ValueError("a number too large for Q6_K")
    x = x.reshape(*x.shape[:-1], 16, 16)
    scales = _fitted_scales(x)
    inverse = _inverse(_largest(scales) / -128)
    blocks = _with_scales(_inverse(inverse), "Q6_K")
    blocks["scale"] = np.minimum(np.rint(inverse * scales), 127)
    step = (_of_each(blocks["d"]) * blocks["scale"])[..., None]
    q = np.divide(x, step, out=np.zeros_like(x), where=step != 0)
    q = (np.clip(np.rint(q), -32, 31) + 32).astype(np.uint8).reshape(*blocks.shape, 2, 4, 32)
    low = q & 15
    blocks["low"] = (low[..., :2, :] | low[..., 2:, :] << 4).reshape(*blocks.shape, 128)
    high = q >> 4 << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    blocks["high"] = np.bitwise_or.reduce(high, axis=-2).reshape(*blocks.shape, 64)
    return blocks


def _fitted_scales(x):
    """A scale for each 16 elements, x (..., 16) -> (...), such that scale * q comes near them with whole q.

    Each of 19 scales around largest / -32 gives q, -32 to 31. For these q the error, sum(x^2 (x - scale * q)^2), is
    least at scale = sum(x^3 q) / sum(x^2 q^2). It is then sum(x^4) - sum(x^3 q)^2 / sum(x^2 q^2), and the best q are
    those for which that is least.
    """
    largest = _largest(x)[..., 0]
    x = np.ascontiguousarray(np.moveaxis(x, -1, 0))  # sums over the first axis are fast, and in the order of C's loop
    x2, x3 = x * x, x * x * x
    scale, best = np.zeros_like(largest), np.zeros_like(largest)
    for change in (0, *range(-9, 0), *range(1, 10)):
        q = x * (-(32 + np.float32(0.1) * np.float32(change)) / largest)
        np.clip(np.rint(q, out=q), -32, 31, out=q)
        xq, qq = (x3 * q).sum(axis=0), (x2 * q * q).sum(axis=0)
        better = xq * xq > best * qq
        scale = np.where(better, xq / qq, scale)
        best = np.where(better, xq / qq * xq, best)
    return scale


def _with_scales(d, dtype):
    """New blocks (..., N) that have their scales d (..., N, 1), and nothing else yet. Raises ValueError."""
    blocks = np.empty(d.shape[:-1], BLOCKS[dtype])
    blocks["d"] = d[..., 0]
    if not np.isfinite(blocks["d"]).all():
        raise ValueError(f"a number too large for {dtype}")
    return blocks


def _largest(x):
    """The element with the largest magnitude, the first of several: x (..., n) -> (..., 1)."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)


def _inverse(d):
    """1 / d; and 0 for a d of 0, or one so small that it is 0 in float16 anyway."""
    inverse = 1 / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))
