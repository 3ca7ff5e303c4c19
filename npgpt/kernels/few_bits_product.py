"""Products with a frozen matrix in few bits (few_bits.py), which is never float32 as a whole.

    y = x W + b         x (M, K), W (K, N), b (N,)          forward
    dx = dy W^T         dy (M, N)                           backward: W is frozen, so there is no dW

The results are, to the bit, those of ``matmul`` with the same W in float32, where that computes with ``gemm``.
"""

import numba
import numpy as np
from numba import prange

from npgpt.kernels.few_bits import BLOCK, DYNAMIC, GROUP, PAIRS, FewBits, NF4Matrix
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.product import K_BLOCK, gemm
from npgpt.kernels.precision import gemm_dtype_tag

SIDE = K_BLOCK  # of the square of W that is made float32 at a time, 2.4 MB: gemm adds up so many products in one go
_WORDS = np.ascontiguousarray(PAIRS).view(np.uint64).reshape(-1)  # both numbers of a byte at once
_NOTHING = np.empty((0, 0), np.uint8), np.empty(0, np.float32), 0.0  # what bfloat16 has no need of


def few_bits_matmul_numpy(
    a: np.ndarray, matrix: FewBits, transposed: bool = False, bias: np.ndarray | None = None
) -> np.ndarray:
    """a (M, K), W (K, N), bias (N,) -> a W + bias (M, N); ``transposed``: a (M, N) -> a W^T + bias (M, K)"""
    W = matrix.rows().astype(a.dtype)
    _check(a, matrix, transposed, bias)
    c = a @ (W.T if transposed else W)
    return c if bias is None else c + bias


def few_bits_matmul_numba(
    a: np.ndarray, matrix: FewBits, transposed: bool = False, bias: np.ndarray | None = None
) -> np.ndarray:
    """Columns of the result in parallel; each thread makes a square of W at a time, and multiplies with it."""
    if a.dtype != np.float32 or not a.size:
        return few_bits_matmul_numpy(a, matrix, transposed, bias)
    _check(a, matrix, transposed, bias)
    a = np.ascontiguousarray(a)
    M, (K, N) = len(a), matrix.shape
    c = np.empty((M, K if transposed else N), np.float32)
    bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    others = (matrix.scales, matrix.largest, matrix.mean) if isinstance(matrix, NF4Matrix) else _NOTHING
    begin = 0 if bias is None else bias.ctypes.data
    threads, tag = numba.get_num_threads(), gemm_dtype_tag(c.dtype)
    _multiply(a, matrix.codes, *others, _WORDS, DYNAMIC, transposed, begin, c, threads, tag, work=K * N)
    return c


def _check(a, matrix, transposed, bias):
    """Compiled code checks no bounds."""
    (K, N) = matrix.shape[::-1] if transposed else matrix.shape
    if a.ndim != 2 or a.shape[1] != K or (bias is not None and bias.shape != (N,)):
        shapes = a.shape, matrix.shape, None if bias is None else bias.shape
        raise ValueError(f"few_bits_matmul: the shapes {shapes} don't fit")


@parallel_jit
def _multiply(a, codes, scales, largest, mean, words, dynamic, transposed, bias, c, parts, dtype_tag):
    M, columns = c.shape
    depth, size = a.shape[1], 4
    steps = (columns + BLOCK - 1) // BLOCK
    for part in prange(parts):
        begin, end = steps * part // parts * BLOCK, min(columns, steps * (part + 1) // parts * BLOCK)
        across, down = min(SIDE, (end - begin + BLOCK - 1) // BLOCK * BLOCK), min(SIDE, depth)
        if transposed:
            across, down = min(SIDE, (depth + BLOCK - 1) // BLOCK * BLOCK), min(SIDE, end - begin)
        square = np.empty((down, across), np.float32)
        address = np.int64(square.ctypes.data)
        for j in range(begin, end, SIDE):
            n = min(SIDE, end - j)
            for k in range(0, depth, SIDE):
                deep = min(SIDE, depth - k)
                out = np.int64(c.ctypes.data) + j * size
                start, start_row = (bias + j * size if bias else 0, 0) if k == 0 else (out, columns)
                factor = np.int64(a.ctypes.data) + k * size
                if transposed:
                    _widen(codes, scales, largest, mean, words, dynamic, j, j + n, k, k + deep, square)
                    gemm(M, n, deep, factor, depth, 1, address, 1, across, start, start_row, out, columns, dtype_tag)
                else:
                    _widen(codes, scales, largest, mean, words, dynamic, k, k + deep, j, j + n, square)
                    gemm(M, n, deep, factor, depth, 1, address, across, 1, start, start_row, out, columns, dtype_tag)
        square[:1] = 0  # keep it alive: Numba frees an array after its last use, and using its address does not count


@jit
def _widen(codes, scales, largest, mean, words, dynamic, row, last_row, column, last_column, square):
    """W[row:last_row, column:last_column] -> the beginning of the square; column is a multiple of BLOCK."""
    if codes.itemsize == 2:  # bfloat16
        for r in range(last_row - row):
            line, out = codes[row + r, column:last_column], square[r].view(np.uint32)
            for i in range(line.size):
                out[i] = np.uint32(line[i]) << np.uint32(16)
        return
    blocks = scales.shape[1]
    for r in range(last_row - row):
        line = square[r].view(np.uint64)
        for block in range(column // BLOCK, (last_column + BLOCK - 1) // BLOCK):
            number = (row + r) * blocks + block
            exact = mean + np.float64(largest[number // GROUP]) * np.float64(dynamic[scales[row + r, block]])
            scale = np.float32(exact)
            first = (block * BLOCK - column) // 2
            part = codes[row + r, block * BLOCK // 2 : (block + 1) * BLOCK // 2]
            out = line[first : first + BLOCK // 2]
            for i in range(part.size):
                out[i] = words[part[i]]
            elements = square[r, 2 * first : 2 * first + BLOCK]
            for i in range(elements.size):
                elements[i] *= scale
