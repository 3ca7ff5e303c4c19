"""The gradient of an embedding table.

    Forward     y_n = weight[ids_n]                     a row of C elements
    Backward    dweight[v] = sum of dy_n over all n with ids_n = v

Derivation. Row v of weight is used, unchanged, in each y_n with ids_n = v. By the chain rule the dy_n of these add up:
a row that was read twice receives two contributions, and one that was not read has the gradient 0.
"""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit

COLUMNS_PER_BLOCK = 128


def embedding_backward_numpy(dy: np.ndarray, ids: np.ndarray, dweight: np.ndarray) -> None:
    """dy (..., C), ids (...) of integers below V -> adds to dweight (V, C)"""
    np.add.at(dweight, ids.reshape(-1), dy.reshape(ids.size, dweight.shape[1]))


def embedding_backward_numba(dy: np.ndarray, ids: np.ndarray, dweight: np.ndarray) -> None:
    """Blocks of columns in parallel. A thread goes through all ids, so no two threads write to the same place."""
    dy = np.ascontiguousarray(dy).reshape(ids.size, dweight.shape[1])
    _add_rows(dy, np.ascontiguousarray(ids, np.int64).reshape(-1), dweight, work=dy.size)


@parallel_jit
def _add_rows(dy, ids, dweight):
    C = dy.shape[1]
    for block in prange((C + COLUMNS_PER_BLOCK - 1) // COLUMNS_PER_BLOCK):
        start, stop = block * COLUMNS_PER_BLOCK, min(C, (block + 1) * COLUMNS_PER_BLOCK)
        for n in range(ids.size):
            row, dy_row = dweight[ids[n], start:stop], dy[n, start:stop]
            for c in range(dy_row.size):
                row[c] += dy_row[c]
