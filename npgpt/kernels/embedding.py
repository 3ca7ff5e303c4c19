"""The gradient of an embedding table.

forward     y[n] = weight[ids[n]]
backward    dweight[v] = sum of dy[n] over all n with ids[n] = v: a row that was read twice collects twice
"""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit

COLUMNS = 64


def embedding_backward_numpy(dy, ids, rows):
    """dy (..., C), ids (...) of whole numbers below ``rows`` -> dweight (rows, C)"""
    C = dy.shape[-1]
    dweight = np.zeros((rows, C), dy.dtype)
    np.add.at(dweight, ids.reshape(-1), dy.reshape(ids.size, C))
    return dweight


def embedding_backward_numba(dy, ids, rows):
    """Each thread owns a block of columns and walks through all ids, so none writes where another does."""
    C = dy.shape[-1]
    dweight = np.zeros((rows, C), dy.dtype)
    dy = np.ascontiguousarray(dy).reshape(ids.size, C)
    _add_rows(dy, np.ascontiguousarray(ids, np.int64).reshape(-1), dweight)
    return dweight


@parallel_jit
def _add_rows(dy, ids, dweight):
    C = dy.shape[1]
    for block in prange((C + COLUMNS - 1) // COLUMNS):
        start, stop = block * COLUMNS, min(C, (block + 1) * COLUMNS)
        for n in range(ids.size):
            row = ids[n]
            for c in range(start, stop):
                dweight[row, c] += dy[n, c]
