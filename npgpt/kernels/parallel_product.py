"""A large matrix product C = start + A B on all threads.

The factor along the longer side of C is divided among the threads: rows of A, or columns of B. The other factor is
shared: all threads pack it for all, 768 steps of k at a time, and then each multiplies its own lines with it.

    for 768 steps of k
      in parallel: pack a part of the shared factor into panels
      in parallel: multiply a part of the divided factor with all panels        (machine/product.py)
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.microkernel import element_size, tile_columns, tile_rows
from npgpt.kernels.machine.product import K_BLOCK, first_panel, multiply_packed, pack_all, panels_at
from npgpt.kernels.machine.region import region


class Factor(NamedTuple):
    """A by its rows, or B by its columns: they are its lines, of K elements each."""

    x: int  # the address of the first element
    line_step: int  # from one line to the next, in elements
    k_step: int  # from one element of a line to the next. One of the two steps is 1
    lines: int


@parallel_jit
def multiply(K, divided, shared, is_a, start, start_row, c, parts, dtype_tag):
    """c (M, N) = start + A (M, K) @ B (K, N), by so many threads.

    divided, shared     the factors; ``is_a``: A is the divided one
    start, ...          as ``product.gemm`` takes them

    A weight's panels are not kept for the backward pass, which has no use for them: a panel's pairs lie along the axis
    that is summed over, and each matrix is summed over one axis forward (y = x W) and the other backward (dy W^T).
    """
    panels = np.empty(panels_at(0, shared.lines, min(K_BLOCK, K), not is_a, dtype_tag) + 64, np.uint8)
    for k0 in range(0, K, K_BLOCK):
        for part in prange(parts):
            _pack_part(part, parts, k0, K, shared, is_a, first_panel(panels), dtype_tag)
        for part in prange(parts):
            _multiply_part(
                part, parts, k0, K, divided, shared, is_a, first_panel(panels), start, start_row, c, dtype_tag
            )  # fmt: skip


@jit
def _pack_part(part, parts, k0, K, shared, is_a, panels, dtype_tag):
    """Pack this part's lines of the shared factor, a block of steps from k0 on."""
    first, last = _part_of(shared.lines, part, parts, not is_a, dtype_tag)
    if first < last:
        x = shared.x + k0 * shared.k_step * element_size(dtype_tag)
        k = min(K_BLOCK, K - k0)
        pack_all(
            x, shared.line_step, shared.k_step, shared.lines, k, first, last, not is_a, panels, dtype_tag
        )  # fmt: skip


@jit
def _multiply_part(part, parts, k0, K, divided, shared, is_a, panels, start, start_row, c, dtype_tag):
    """Multiply this part's lines of the divided factor with all panels, and fetch what this part packs next."""
    size, N, at_c = element_size(dtype_tag), c.shape[1], np.int64(c.ctypes.data)
    k, next_K = min(K_BLOCK, K - k0), min(K_BLOCK, max(K - k0 - K_BLOCK, 0))
    first, last = _part_of(shared.lines, part, parts, not is_a, dtype_tag)
    x = shared.x + (first * shared.line_step + (k0 + K_BLOCK) * shared.k_step) * size
    next_panels = region(x, shared.line_step, shared.k_step, last - first, next_K, dtype_tag)

    first, last = _part_of(divided.lines, part, parts, is_a, dtype_tag)
    if first < last:
        x = divided.x + (first * divided.line_step + k0 * divided.k_step) * size
        M, columns = (last - first, N) if is_a else (c.shape[0], last - first)
        begin, begin_row = (start, start_row) if k0 == 0 else (at_c, N)
        start_step, c_step = (begin_row, N) if is_a else (1, 1)  # from one line to the next
        multiply_packed(
            M, columns, k, x, divided.line_step, divided.k_step, is_a, panels, k,
            begin + first * start_step * size if begin else 0, begin_row, at_c + first * c_step * size, N,
            next_K, next_panels, dtype_tag
        )  # fmt: skip


@jit
def _part_of(lines, part, parts, is_a, dtype_tag):
    """The first line of a part, and the end of its last one: where a panel ends."""
    tile = tile_rows(dtype_tag) if is_a else tile_columns(dtype_tag)
    panels = (lines + tile - 1) // tile
    return min(lines, panels * part // parts * tile), min(lines, panels * (part + 1) // parts * tile)
