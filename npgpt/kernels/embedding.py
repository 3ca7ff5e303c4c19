"""The gradient of an embedding table.

forward     y[n] = weight[ids[n]]
backward    dweight[v] = sum of dy[n] over all n with ids[n] = v: a row that was read twice collects twice
"""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit

COLUMNS = 128


def embedding_backward_numpy(dy, ids, dweight):
    """dy (..., C), ids (...) of whole numbers below V -> adds to dweight (V, C)"""
    np.add.at(dweight, ids.reshape(-1), dy.reshape(ids.size, dweight.shape[1]))


def embedding_backward_numba(dy, ids, dweight):
    """Each thread owns a block of columns and walks through all ids, so none writes where another does."""
    dy = np.ascontiguousarray(dy).reshape(ids.size, dweight.shape[1])
    _add_rows(dy, np.ascontiguousarray(ids, np.int64).reshape(-1), dweight, work=dy.size)


@parallel_jit
def _add_rows(dy, ids, dweight):
    C = dy.shape[1]
    for block in prange((C + COLUMNS - 1) // COLUMNS):
        start, stop = block * COLUMNS, min(C, (block + 1) * COLUMNS)
        for n in range(ids.size):
            row, share = dweight[ids[n], start:stop], dy[n, start:stop]
            for c in range(share.size):
                row[c] += share[c]
