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
    constant_of_tag,
    depth,
    element_size,
    microkernel,
    pack_a,
    pack_b,
    pack_transposed_a,
    pack_transposed_b,
    tile_columns,
    tile_rows,
)
from npgpt.kernels.machine.tiles import begin_products, end_products
from npgpt.kernels.machine.vectors import PIECES

K_BLOCK = 768
N_BLOCK = 768
M_BLOCK = 120 // TILE_ROWS * TILE_ROWS
_LINES_AT_A_TIME = 8  # of B: so a page of memory is read to its end before the next one
# Tiles: an element of a panel takes 2 bytes a piece, and blocks of B stay in the core's own cache.
_m_block = constant_of_tag(lambda tag: 256 if tag in PIECES else M_BLOCK)
_n_block = constant_of_tag(lambda tag: (512 if PIECES[tag] == 1 else 256) if tag in PIECES else N_BLOCK)
_lines_at_a_time = constant_of_tag(lambda tag: 32 if tag in PIECES else _LINES_AT_A_TIME)
_is_in_tiles = constant_of_tag(lambda tag: int(tag in PIECES))


@jit
def gemm(M, N, K, a, a_row, a_column, b, b_row, b_column, start, start_row, c, c_row, dtype_tag):
    """C (M, N) = start (M, N) + A (M, K) @ B (K, N), on one thread.

    a, b, c     addresses of the first elements
    start       the address of a matrix to add; 0 adds nothing. It may be c itself
    ..._row     the distance from one row to the next, in elements; start_row = 0: one row for all, a bias
    ..._column  the distance from one column to the next; of A and of B, one of the two distances is 1
    dtype_tag   a scalar of the elements' type; or vectors.IN_PAIRS, IN_TILES, for products of bfloat16
    """
    size, W = element_size(dtype_tag), tile_columns(dtype_tag)
    steps = min(K_BLOCK, K)
    rows_of_a = min(_m_block(dtype_tag), _round_up(M, tile_rows(dtype_tag)))
    columns_of_b = min(_n_block(dtype_tag), _round_up(N, W))
    memory = np.empty((rows_of_a + columns_of_b) * depth(steps, dtype_tag) * size + 128, np.uint8)
    panels_a = _round_up(np.int64(memory.ctypes.data), 64)
    panels_b = _round_up(panels_a + rows_of_a * depth(steps, dtype_tag) * size, 64)
    begin_products(dtype_tag)
    for j0 in range(0, N, columns_of_b):
        n = min(columns_of_b, N - j0)
        for k0 in range(0, max(K, 1), K_BLOCK):
            k = min(K_BLOCK, K - k0)
            begin, begin_row = (start, start_row) if k0 == 0 else (c, c_row)
            _pack_panels_b(b + (k0 * b_row + j0 * b_column) * size, b_row, b_column, k, n, panels_b, dtype_tag)
            for i0 in range(0, M, rows_of_a):
                m = min(rows_of_a, M - i0)
                _pack_panels_a(a + (i0 * a_row + k0 * a_column) * size, a_row, a_column, k, m, panels_a, dtype_tag)
                _multiply_panels(
                    k, panels_a, panels_b, m, n, begin + (i0 * begin_row + j0) * size if begin else 0, begin_row,
                    c + (i0 * c_row + j0) * size, c_row, dtype_tag
                )  # fmt: skip
    end_products(dtype_tag)
    memory[0] = 0  # keep it alive: Numba frees an array after its last use, and using its address does not count


@jit
def _multiply_panels(K, A, B, m, n, start, start_row, c, c_row, dtype_tag):
    """C (m, n) = start + A B, from panels of K steps: tile after tile, down the columns of C; in tiles along its rows."""
    size, R, W, deep = element_size(dtype_tag), tile_rows(dtype_tag), tile_columns(dtype_tag), depth(K, dtype_tag)
    along = _is_in_tiles(dtype_tag)
    outer, inner = (_round_up(m, R), _round_up(n, W)) if along else (_round_up(n, W), _round_up(m, R))
    for x in range(0, outer, R if along else W):
        for y in range(0, inner, W if along else R):
            i, j = (x, y) if along else (y, x)
            microkernel(
                deep, A + i * deep * size, B + j * deep * size, m - i, n - j,
                start + (i * start_row + j) * size if start else 0, start_row, c + (i * c_row + j) * size, c_row,
                dtype_tag
            )  # fmt: skip


@jit
def _pack_panels_a(a, row, column, K, M, panels, dtype_tag):
    size, deep = element_size(dtype_tag), depth(K, dtype_tag)
    for i in range(0, M, tile_rows(dtype_tag)):
        if row == 1:
            pack_a(a + i * size, column, M - i, K, panels + i * deep * size, dtype_tag)
        else:
            pack_transposed_a(a + i * row * size, row, M - i, K, panels + i * deep * size, dtype_tag)


@jit
def _pack_panels_b(b, row, column, K, N, panels, dtype_tag):
    size, W, deep = element_size(dtype_tag), tile_columns(dtype_tag), depth(K, dtype_tag)
    if column == 1:
        for k in range(0, K, _lines_at_a_time(dtype_tag)):
            lines = min(_lines_at_a_time(dtype_tag), K - k)
            for j in range(0, N, W):
                panel = panels + (j * deep + depth(k, dtype_tag) * W) * size
                pack_b(b + (k * row + j) * size, row, N - j, lines, panel, dtype_tag)
    else:
        for j in range(0, N, W):
            pack_transposed_b(b + j * column * size, column, N - j, K, panels + j * deep * size, dtype_tag)


@jit
def _round_up(n, multiple):
    return (n + multiple - 1) // multiple * multiple
