"""Matrix products on one thread, from inside jitted code.

A product is cut so that data that is read repeatedly stays in a cache (Goto & van de Geijn 2008):

    for 256 columns of B (pairs of bfloat16: 512)
      for 768 steps of k
        pack this block of B into panels            0.8 MB, which stay in the outer caches
        for 120 rows of A (pairs: 240)
          pack these into panels                    0.4 MB, which stay in the core's own cache
          for each panel of B, for each of A:       a tile in registers (microkernel.py)

Several threads compute parts of one C from a factor that they have packed together (``multiply_packed``).

Each element of C is summed in the order of k, in blocks of 768 steps, whatever is computed beside it. So the bits don't
depend on how C is divided among threads.
"""

import numpy as np

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.microkernel import (
    STEPS_AT_ONCE,
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
from npgpt.kernels.machine.region import NOTHING, region, without_first_row
from npgpt.kernels.machine.tiles import begin_products, end_products
from npgpt.kernels.machine.vectors import PAIRS, PIECES

K_BLOCK = 768
N_BLOCK = 256
M_BLOCK = 120 // TILE_ROWS * TILE_ROWS
# Pairs: blocks of as many bytes have twice as many elements. Tiles: an element of a panel takes 2 bytes a piece.
_m_block = constant_of_tag(lambda tag: 256 if tag in PIECES else 2 * M_BLOCK if tag == PAIRS else M_BLOCK)
_n_block = constant_of_tag(lambda tag: 2 * N_BLOCK if tag == PAIRS or PIECES.get(tag) == 1 else N_BLOCK)
_steps_at_once = constant_of_tag(lambda tag: 32 if tag in PIECES else STEPS_AT_ONCE)
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
    columns_of_b = min(_n_block(dtype_tag) // W * W, _round_up(N, W))  # whole panels: NEON's have 12 columns
    memory = np.empty((rows_of_a + columns_of_b) * depth(steps, dtype_tag) * size + 128, np.uint8)
    panels_a = first_panel(memory)
    panels_b = _round_up(panels_a + rows_of_a * depth(steps, dtype_tag) * size, 64)
    begin_products(dtype_tag)
    for j0 in range(0, N, columns_of_b):
        n = min(columns_of_b, N - j0)
        for k0 in range(0, max(K, 1), K_BLOCK):
            k = min(K_BLOCK, K - k0)
            deep = depth(k, dtype_tag)
            begin, begin_row = (start, start_row) if k0 == 0 else (c, c_row)
            begin_b = b + (k0 * b_row + j0 * b_column) * size
            _pack_panels(begin_b, b_column, b_row, n, k, False, panels_b, dtype_tag)
            for i0 in range(0, M, rows_of_a):
                m = min(rows_of_a, M - i0)
                begin_a = a + (i0 * a_row + k0 * a_column) * size
                _pack_panels(begin_a, a_row, a_column, m, k, True, panels_a, dtype_tag)
                _multiply_panels(
                    k, panels_a, deep, panels_b, deep, m, n,
                    begin + (i0 * begin_row + j0) * size if begin else 0, begin_row,
                    c + (i0 * c_row + j0) * size, c_row, NOTHING, NOTHING, dtype_tag
                )  # fmt: skip
    end_products(dtype_tag)
    memory[0] = 0  # keep it alive: Numba frees an array after its last use, and using its address does not count


@jit
def multiply(a, b, c, dtype_tag):
    """c = a @ b, contiguous matrices, on one thread."""
    (M, K), N = a.shape, b.shape[1]
    A, B, C = np.int64(a.ctypes.data), np.int64(b.ctypes.data), np.int64(c.ctypes.data)
    gemm(M, N, K, A, K, 1, B, N, 1, 0, 0, C, N, dtype_tag)


@jit
def pack_all(x, line_step, k_step, lines, K, first, last, is_a, panels, dtype_tag):
    """Copy the lines ``first`` to ``last`` of a factor of ``lines`` lines into panels: for each 768 steps, all panels.

    ``first`` is a multiple of a panel's lines. Lines are rows of A (``is_a``) or columns of B.
    """
    size = element_size(dtype_tag)
    for k0 in range(0, K, K_BLOCK):
        k = min(K_BLOCK, K - k0)
        begin = x + (first * line_step + k0 * k_step) * size
        panel = panels_at(panels, lines, k0, is_a, dtype_tag) + first * depth(k, dtype_tag) * size
        _pack_panels(begin, line_step, k_step, last - first, k, is_a, panel, dtype_tag)


@jit
def first_panel(memory):
    """Where panels begin in an array of bytes: the first address that is a multiple of 64."""
    return _round_up(np.int64(memory.ctypes.data), 64)


@jit
def panels_at(panels, lines, k0, is_a, dtype_tag):
    """The address of the panels from step ``k0`` on, a multiple of 768. k0 = K: where they end."""
    lines = _round_up(lines, tile_rows(dtype_tag) if is_a else tile_columns(dtype_tag))
    return panels + lines * depth(k0, dtype_tag) * element_size(dtype_tag)


@jit
def multiply_packed(
    M, N, K, x, line_step, k_step, is_a, panels, packed_K, start, start_row, c, c_row, next_K, next_panels, dtype_tag
):
    """C (M, N) = start (M, N) + A (M, K) @ B (K, N), K <= 768, on one thread, with one factor in panels (``pack_all``).

    x, ..._step         the other factor, A or B (``is_a``), in place: its blocks are packed one after the other
    packed_K            so many steps are in the panels; the first K are multiplied
    next_K              so many steps of x are multiplied after this, 0 if this is all
    next_panels         the region of the other factor that this thread packs then, or NOTHING
    """
    size, deep, packed_deep = element_size(dtype_tag), depth(K, dtype_tag), depth(packed_K, dtype_tag)
    m_block = _equal_blocks(M, _m_block(dtype_tag), tile_rows(dtype_tag))
    n_block = _equal_blocks(N, _n_block(dtype_tag), tile_columns(dtype_tag))
    lines, block = (M, m_block) if is_a else (N, n_block)
    memory = np.empty(block * deep * size + 64, np.uint8)
    own = first_panel(memory)
    begin_products(dtype_tag)
    for x0 in range(0, lines, block):
        begin_x, left = x + x0 * line_step * size, lines - x0 - block
        _pack_panels(begin_x, line_step, k_step, min(block, lines - x0), K, is_a, own, dtype_tag)
        if left > 0:
            following = region(begin_x + block * line_step * size, line_step, k_step, min(block, left), K, dtype_tag)
        elif next_K:
            following = region(x + K * k_step * size, line_step, k_step, min(block, lines), next_K, dtype_tag)
        else:
            following = NOTHING
        for y0 in range(0, N if is_a else M, n_block if is_a else m_block):
            i, j = (x0, y0) if is_a else (y0, x0)
            A, A_deep, B, B_deep = own, deep, panels + j * packed_deep * size, packed_deep
            if not is_a:
                A, A_deep, B, B_deep = panels + i * packed_deep * size, packed_deep, own, deep
            following, next_panels = _multiply_panels(
                K, A, A_deep, B, B_deep, min(m_block, M - i), min(n_block, N - j),
                start + (i * start_row + j) * size if start else 0, start_row, c + (i * c_row + j) * size, c_row,
                following, next_panels, dtype_tag
            )  # fmt: skip
    end_products(dtype_tag)
    memory[0] = 0


@jit
def _equal_blocks(n, largest, tile):
    """The size of blocks of n lines, of at most ``largest``, so that the last one is about as long as the others."""
    blocks = (n + largest - 1) // largest
    return _round_up((n + blocks - 1) // blocks, tile)


@jit
def _multiply_panels(K, A, A_deep, B, B_deep, m, n, start, start_row, c, c_row, first, then, dtype_tag):
    """C (m, n) = start + A B, from panels of K steps: down the columns of C; in tiles of bfloat16 along its rows.

    ..._deep    the length of a line in a panel, in elements. The next panel begins R (of A) or W (of B) times as far on
    Meanwhile the regions ``first`` and ``then`` are fetched. -> what is left of them
    """
    size, R, W, deep = element_size(dtype_tag), tile_rows(dtype_tag), tile_columns(dtype_tag), depth(K, dtype_tag)
    along = _is_in_tiles(dtype_tag)
    outer, inner = (_round_up(m, R), _round_up(n, W)) if along else (_round_up(n, W), _round_up(m, R))
    for x in range(0, outer, R if along else W):
        for y in range(0, inner, W if along else R):
            i, j = (x, y) if along else (y, x)
            ahead = first if first.rows else then
            microkernel(
                deep, A + i * A_deep * size, B + j * B_deep * size, m - i, n - j,
                start + (i * start_row + j) * size if start else 0, start_row, c + (i * c_row + j) * size, c_row,
                ahead.address if ahead.rows else A, ahead.length, dtype_tag
            )  # fmt: skip
            if first.rows:
                first = without_first_row(first)
            elif then.rows:
                then = without_first_row(then)
    return first, then


@jit
def _pack_panels(x, line_step, k_step, lines, K, is_a, panels, dtype_tag):
    """Copy K steps of some lines, rows of A (``is_a``) or columns of B, into panels. The last is filled with zeros."""
    size, deep = element_size(dtype_tag), depth(K, dtype_tag)
    width = tile_rows(dtype_tag) if is_a else tile_columns(dtype_tag)
    if line_step == 1:
        for k in range(0, K, _steps_at_once(dtype_tag)):
            steps = min(_steps_at_once(dtype_tag), K - k)
            for i in range(0, lines, width):
                begin, panel = x + (i + k * k_step) * size, panels + (i * deep + depth(k, dtype_tag) * width) * size
                if is_a:
                    pack_a(begin, k_step, lines - i, steps, panel, dtype_tag)
                else:
                    pack_b(begin, k_step, lines - i, steps, panel, dtype_tag)
    else:
        for i in range(0, lines, width):
            begin, panel = x + i * line_step * size, panels + i * deep * size
            if is_a:
                pack_transposed_a(begin, line_step, lines - i, K, panel, dtype_tag)
            else:
                pack_transposed_b(begin, line_step, lines - i, K, panel, dtype_tag)


@jit
def _round_up(n, multiple):
    return (n + multiple - 1) // multiple * multiple
