"""Sums of rows, for a bias's gradient; the norm of gradients, and their scaling, for clipping."""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.machine.addresses import array_at, pointer_table

COLUMNS_PER_BLOCK = 512
ROWS_PER_BLOCK = 128


def sum_rows_numpy(x: np.ndarray) -> np.ndarray:
    """x (R, C) -> (C,), added up in float64: a float32 sum of a million rows would lose three digits."""
    return x.sum(axis=0, dtype=np.float64).astype(x.dtype)


def sum_rows_numba(x: np.ndarray) -> np.ndarray:
    """Blocks of columns in parallel, four rows at a time, so that the sums are read and written a quarter as often.

    Blocks of rows are added up in x's dtype, and their sums in float64.
    """
    x = np.ascontiguousarray(x)
    y = np.zeros(x.shape[1], x.dtype)
    _sum_rows(x, y)
    return y


@parallel_jit
def _sum_rows(x, y):
    R, C = x.shape
    for block in prange((C + COLUMNS_PER_BLOCK - 1) // COLUMNS_PER_BLOCK):
        start, stop = block * COLUMNS_PER_BLOCK, min(C, (block + 1) * COLUMNS_PER_BLOCK)
        totals, sums = np.zeros(stop - start), y[start:stop]
        for first in range(0, R, ROWS_PER_BLOCK):
            last = min(R, first + ROWS_PER_BLOCK)
            fours = last - (last - first) % 4
            for r in range(first, fours, 4):
                x0, x1, x2, x3 = x[r, start:stop], x[r + 1, start:stop], x[r + 2, start:stop], x[r + 3, start:stop]
                for c in range(sums.size):
                    sums[c] += (x0[c] + x1[c]) + (x2[c] + x3[c])
            for r in range(fours, last):
                row = x[r, start:stop]
                for c in range(sums.size):
                    sums[c] += row[c]
            for c in range(sums.size):
                totals[c] += np.float64(sums[c])
                sums[c] = 0
        for c in range(sums.size):
            sums[c] = totals[c]


def sum_of_squares_numpy(arrays: list[np.ndarray]) -> float:
    """The sum of the squares of all elements, in float64: a float32 sum of 100 million would lose digits."""
    return float(sum(np.square(x, dtype=np.float64).sum() for x in arrays))


def sum_of_squares_numba(arrays: list[np.ndarray]) -> float:
    """All arrays in one kernel launch, chunks in parallel. The sums of the chunks are added in order."""
    arrays = [np.ascontiguousarray(x) for x in arrays]
    if not arrays:
        return 0.0
    addresses, sizes, _ = pointer_table([arrays])
    sums = np.empty(len(sizes))
    _sum_chunks(addresses, sizes, arrays[0].dtype.type(0), sums, work=int(sizes.sum()))
    return float(sums.sum())


@parallel_jit
def _sum_chunks(addresses, sizes, dtype_tag, sums):
    for chunk in prange(sizes.size):
        x = array_at(addresses[chunk, 0], sizes[chunk], dtype_tag)
        total = 0.0
        for i in range(x.size):
            total += np.float64(x[i]) * np.float64(x[i])
        sums[chunk] = total


def scale_numpy(arrays: list[np.ndarray], factor: float) -> None:
    """Multiply each of a list of arrays by the factor, in place."""
    for x in arrays:
        x *= x.dtype.type(factor)


def scale_numba(arrays: list[np.ndarray], factor: float) -> None:
    """All contiguous arrays in one kernel launch, chunks in parallel. NumPy scales the others, or says why it can't."""
    scale_numpy([x for x in arrays if not x.flags.carray], factor)
    if arrays := [x for x in arrays if x.flags.carray]:
        addresses, sizes, _ = pointer_table([arrays])
        _scale_chunks(addresses, sizes, arrays[0].dtype.type(factor), work=int(sizes.sum()))


@parallel_jit
def _scale_chunks(addresses, sizes, factor):
    for chunk in prange(sizes.size):
        x = array_at(addresses[chunk, 0], sizes[chunk], factor)
        for i in range(x.size):
            x[i] *= factor
