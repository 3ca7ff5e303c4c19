"""Two sums over large arrays that training needs: over rows (a bias's gradient), of squares (the gradient's norm)."""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit

COLUMNS = 64
CHUNK = 1 << 16


def sum_rows_numpy(x):
    """x (R, C) -> (C,)"""
    return x.sum(axis=0)


def sum_rows_numba(x):
    """Blocks of columns in parallel, each summed in the order of rows."""
    x = np.ascontiguousarray(x)
    y = np.zeros(x.shape[1], x.dtype)
    _sum_rows(x, y)
    return y


@parallel_jit
def _sum_rows(x, y):
    R, C = x.shape
    for block in prange((C + COLUMNS - 1) // COLUMNS):
        start, stop = block * COLUMNS, min(C, (block + 1) * COLUMNS)
        for r in range(R):
            for c in range(start, stop):
                y[c] += x[r, c]


def sum_of_squares_numpy(x):
    """x (...) -> a Python float, added up in float64: 100 million float32 squares would lose their last digits."""
    return float(np.square(x, dtype=np.float64).sum())


def sum_of_squares_numba(x):
    """Chunks of 65,536 in parallel; their sums are added in order, so the result doesn't depend on the threads."""
    x = np.ascontiguousarray(x).reshape(-1)
    sums = np.zeros((x.size + CHUNK - 1) // CHUNK)
    _sum_chunks(x, sums)
    return float(sums.sum())


@parallel_jit
def _sum_chunks(x, sums):
    for chunk in prange(sums.size):
        total = 0.0
        for i in range(chunk * CHUNK, min(x.size, (chunk + 1) * CHUNK)):
            total += np.float64(x[i]) * np.float64(x[i])
        sums[chunk] = total
