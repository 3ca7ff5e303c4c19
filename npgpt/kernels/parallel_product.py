"""A large matrix product on all threads.

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


@parallel_jit
def multiply(M, N, K, a, a_row, a_column, b, b_row, b_column, start, start_row, c, parts, dtype_tag):
    """c = start + A B; but for ``parts``, the number of threads, and c, an array, as ``product.gemm`` takes them.

    A weight's panels are not kept for the backward pass, which has no use for them: a panel's pairs lie along the axis
    that is summed over, and each matrix is summed over one axis forward (y = x W) and the other backward (dy W^T).
    """
    factors = M, N, K, a, a_row, a_column, b, b_row, b_column
    panels = np.empty(panels_at(0, min(M, N), min(K_BLOCK, K), M < N, dtype_tag) + 64, np.uint8)
    for k0 in range(0, K, K_BLOCK):
        begin, begin_row = (start, start_row) if k0 == 0 else (np.int64(c.ctypes.data), N)
        for part in prange(parts):
            _pack_part(part, parts, k0, *factors, first_panel(panels), dtype_tag)
        for part in prange(parts):
            _multiply_part(part, parts, k0, *factors, first_panel(panels), begin, begin_row, c, dtype_tag)


class _Factor(NamedTuple):
    """A by its rows, or B by its columns."""

    x: int  # the address of the first element
    line_step: int  # in elements
    k_step: int
    lines: int
    tile: int  # lines of a panel


@jit
def _divided_and_shared(M, N, a, a_row, a_column, b, b_row, b_column, dtype_tag):
    """The factor along the longer side of C, and the other one."""
    A = _Factor(a, a_row, a_column, M, tile_rows(dtype_tag))
    B = _Factor(b, b_column, b_row, N, tile_columns(dtype_tag))
    return (A, B) if M >= N else (B, A)


@jit
def _part_of(factor, part, parts):
    """The first line of a part, and the end of its last one: where a panel ends."""
    panels = (factor.lines + factor.tile - 1) // factor.tile
    first, last = panels * part // parts * factor.tile, panels * (part + 1) // parts * factor.tile
    return min(factor.lines, first), min(factor.lines, last)


@jit
def _pack_part(part, parts, k0, M, N, K, a, a_row, a_column, b, b_row, b_column, panels, dtype_tag):
    """Pack this part's lines of the shared factor, from step k0 on."""
    _, shared = _divided_and_shared(M, N, a, a_row, a_column, b, b_row, b_column, dtype_tag)
    first, last = _part_of(shared, part, parts)
    if first < last:
        pack_all(
            shared.x + k0 * shared.k_step * element_size(dtype_tag), shared.line_step, shared.k_step, shared.lines,
            min(K_BLOCK, K - k0), first, last, M < N, panels, dtype_tag
        )  # fmt: skip


@jit
def _multiply_part(
    part, parts, k0, M, N, K, a, a_row, a_column, b, b_row, b_column, panels, start, start_row, c, dtype_tag
):
    """Multiply this part's lines of the divided factor with all panels. Meanwhile the next ones' lines are fetched."""
    size, k, is_a = element_size(dtype_tag), min(K_BLOCK, K - k0), M >= N
    divided, shared = _divided_and_shared(M, N, a, a_row, a_column, b, b_row, b_column, dtype_tag)
    next_k0, next_K = k0 + K_BLOCK, min(K_BLOCK, max(K - k0 - K_BLOCK, 0))
    first, last = _part_of(shared, part, parts)
    next_panels = shared.x + (first * shared.line_step + next_k0 * shared.k_step) * size
    next_panels = region(next_panels, shared.line_step, shared.k_step, last - first, next_K, dtype_tag)
    first, last = _part_of(divided, part, parts)
    i, j, m, n = (first, 0, last - first, N) if is_a else (0, first, M, last - first)
    if first < last:
        x = divided.x + (first * divided.line_step + k0 * divided.k_step) * size
        begin = start + (i * start_row + j) * size if start else 0
        multiply_packed(
            m, n, k, x, divided.line_step, divided.k_step, is_a, panels, k, begin, start_row,
            np.int64(c.ctypes.data) + (i * N + j) * size, N, next_K, next_panels, dtype_tag
        )  # fmt: skip
