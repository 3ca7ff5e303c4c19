"""A large matrix product on one thread, from inside jitted code. Threads each take a part of C.

The product is cut so that what is read again and again is near (Goto & van de Geijn 2008):

    for 768 columns of B
      for 768 steps of k
        copy these of B into panels                 2.4 MB, which stay in the outer caches
        for 120 rows of A
          copy these into panels                    0.4 MB, which stay in the core's own cache
          for each panel of B, for each of A:       a tile in registers (tile.py)

Each number of C is summed in the order of k, in parts of 768 steps, whatever else is computed beside it. So the bits
don't depend on how C is shared out among threads.
"""

import numpy as np

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.microkernel import (
    ROWS,
    columns,
    copy_to_a,
    copy_to_b,
    depth,
    element_size,
    multiply_tile,
    transpose_to_a,
    transpose_to_b,
)

STEPS = 768
COLUMNS_OF_B = 768
ROWS_OF_A = 120 // ROWS * ROWS
_LINES_AT_A_TIME = 8  # of B, where panels are beside each other: whole pages of memory are read before the next ones


@jit
def add_product(M, N, K, a, a_row, a_column, b, b_row, b_column, start, start_row, c, c_row, like):
    """C (M, N) = start (M, N) + A (M, K) @ B (K, N), on one thread.

    a, b, c     addresses of the first elements
    start       the address of what the sums begin with; 0: with 0. It may be c itself
    ..._row     the distance from one row to the next, in elements; start_row = 0: one row for all, a bias
    ..._column  the distance from one column to the next; of A and of B, one of the two distances is 1
    like        any number of the elements' type; or vectors.IN_PAIRS, for products of bfloat16 numbers
    """
    size, W = element_size(like), columns(like)
    steps = min(STEPS, K)
    rows_of_a, columns_of_b = min(ROWS_OF_A, _up(M, ROWS)), min(COLUMNS_OF_B, _up(N, W))
    memory = np.empty((rows_of_a + columns_of_b) * depth(steps, like) * size + 128, np.uint8)
    panels_a = _up(np.int64(memory.ctypes.data), 64)
    panels_b = _up(panels_a + rows_of_a * depth(steps, like) * size, 64)
    for j0 in range(0, N, columns_of_b):
        n = min(columns_of_b, N - j0)
        for k0 in range(0, max(K, 1), STEPS):
            k = min(STEPS, K - k0)
            deep = depth(k, like)
            begin, begin_row = (start, start_row) if k0 == 0 else (c, c_row)
            _panels_of_b(b + (k0 * b_row + j0 * b_column) * size, b_row, b_column, k, n, panels_b, like)
            for i0 in range(0, M, rows_of_a):
                m = min(rows_of_a, M - i0)
                _panels_of_a(a + (i0 * a_row + k0 * a_column) * size, a_row, a_column, k, m, panels_a, like)
                for j in range(0, n, W):
                    for i in range(0, m, ROWS):
                        from_ = begin + ((i0 + i) * begin_row + j0 + j) * size if begin else 0
                        multiply_tile(
                            deep, panels_a + i * deep * size, panels_b + j * deep * size, m - i, n - j,
                            from_, begin_row, c + ((i0 + i) * c_row + j0 + j) * size, c_row, like
                        )  # fmt: skip
    memory[0] = 0  # Numba gives an array back after its last use, and an address is none: so this is the last


@jit
def _panels_of_a(a, row, column, K, M, panels, like):
    size, deep = element_size(like), depth(K, like)
    for i in range(0, M, ROWS):
        if row == 1:
            copy_to_a(a + i * size, column, M - i, K, panels + i * deep * size, like)
        else:
            transpose_to_a(a + i * row * size, row, M - i, K, panels + i * deep * size, like)


@jit
def _panels_of_b(b, row, column, K, N, panels, like):
    size, W, deep = element_size(like), columns(like), depth(K, like)
    if column == 1:
        for k in range(0, K, _LINES_AT_A_TIME):
            lines = min(_LINES_AT_A_TIME, K - k)
            for j in range(0, N, W):
                panel = panels + (j * deep + depth(k, like) * W) * size
                copy_to_b(b + (k * row + j) * size, row, N - j, lines, panel, like)
    else:
        for j in range(0, N, W):
            transpose_to_b(b + j * column * size, column, N - j, K, panels + j * deep * size, like)


@jit
def _up(n, multiple):
    return (n + multiple - 1) // multiple * multiple
