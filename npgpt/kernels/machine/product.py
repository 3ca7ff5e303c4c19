"""A large matrix product on one thread, from inside jitted code. Each thread computes a part of C.

The product is cut so that data that is read repeatedly stays in a cache (Goto & van de Geijn 2008):

    for 768 columns of B
      for 768 steps of k
        pack this block of B into panels            2.4 MB, which stay in the outer caches
        for 120 rows of A
          pack these into panels                    0.4 MB, which stay in the core's own cache
          for each panel of B, for each of A:       a tile in registers (microkernel.py)

Each element of C is summed in the order of k, in blocks of 768 steps, whatever is computed beside it. So the bits don't
depend on how C is divided among threads.
"""

import numpy as np

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.microkernel import (
    TILE_ROWS,
    depth,
    element_size,
    microkernel,
    pack_a,
    pack_b,
    pack_transposed_a,
    pack_transposed_b,
    tile_columns,
)

K_BLOCK = 768
N_BLOCK = 768
M_BLOCK = 120 // TILE_ROWS * TILE_ROWS
_LINES_AT_A_TIME = 8  # of B: so a page of memory is read to its end before the next one


@jit
def gemm(M, N, K, a, a_row, a_column, b, b_row, b_column, start, start_row, c, c_row, dtype_tag):
    """C (M, N) = start (M, N) + A (M, K) @ B (K, N), on one thread.

    a, b, c     addresses of the first elements
    start       the address of a matrix to add; 0 adds nothing. It may be c itself
    ..._row     the distance from one row to the next, in elements; start_row = 0: one row for all, a bias
    ..._column  the distance from one column to the next; of A and of B, one of the two distances is 1
    dtype_tag   a scalar of the elements' type; or vectors.IN_PAIRS, for products of pairs of bfloat16
    """
    size, W = element_size(dtype_tag), tile_columns(dtype_tag)
    steps = min(K_BLOCK, K)
    rows_of_a, columns_of_b = min(M_BLOCK, _round_up(M, TILE_ROWS)), min(N_BLOCK, _round_up(N, W))
    memory = np.empty((rows_of_a + columns_of_b) * depth(steps, dtype_tag) * size + 128, np.uint8)
    panels_a = _round_up(np.int64(memory.ctypes.data), 64)
    panels_b = _round_up(panels_a + rows_of_a * depth(steps, dtype_tag) * size, 64)
    for j0 in range(0, N, columns_of_b):
        n = min(columns_of_b, N - j0)
        for k0 in range(0, max(K, 1), K_BLOCK):
            k = min(K_BLOCK, K - k0)
            deep = depth(k, dtype_tag)
            begin, begin_row = (start, start_row) if k0 == 0 else (c, c_row)
            _pack_panels_b(b + (k0 * b_row + j0 * b_column) * size, b_row, b_column, k, n, panels_b, dtype_tag)
            for i0 in range(0, M, rows_of_a):
                m = min(rows_of_a, M - i0)
                _pack_panels_a(a + (i0 * a_row + k0 * a_column) * size, a_row, a_column, k, m, panels_a, dtype_tag)
                for j in range(0, n, W):
                    for i in range(0, m, TILE_ROWS):
                        from_ = begin + ((i0 + i) * begin_row + j0 + j) * size if begin else 0
                        microkernel(
                            deep, panels_a + i * deep * size, panels_b + j * deep * size, m - i, n - j,
                            from_, begin_row, c + ((i0 + i) * c_row + j0 + j) * size, c_row, dtype_tag
                        )  # fmt: skip
    memory[0] = 0  # keep it alive: Numba frees an array after its last use, and using its address does not count


@jit
def _pack_panels_a(a, row, column, K, M, panels, dtype_tag):
    size, deep = element_size(dtype_tag), depth(K, dtype_tag)
    for i in range(0, M, TILE_ROWS):
        if row == 1:
            pack_a(a + i * size, column, M - i, K, panels + i * deep * size, dtype_tag)
        else:
            pack_transposed_a(a + i * row * size, row, M - i, K, panels + i * deep * size, dtype_tag)


@jit
def _pack_panels_b(b, row, column, K, N, panels, dtype_tag):
    size, W, deep = element_size(dtype_tag), tile_columns(dtype_tag), depth(K, dtype_tag)
    if column == 1:
        for k in range(0, K, _LINES_AT_A_TIME):
            lines = min(_LINES_AT_A_TIME, K - k)
            for j in range(0, N, W):
                panel = panels + (j * deep + depth(k, dtype_tag) * W) * size
                pack_b(b + (k * row + j) * size, row, N - j, lines, panel, dtype_tag)
    else:
        for j in range(0, N, W):
            pack_transposed_b(b + j * column * size, column, N - j, K, panels + j * deep * size, dtype_tag)


@jit
def _round_up(n, multiple):
    return (n + multiple - 1) // multiple * multiple
