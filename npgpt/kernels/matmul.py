"""Matrix product, with an optional bias added to every row; or added to a given matrix.

    C = A @ B + bias        C[i, j] = sum over k of A[i, k] B[k, j]  + bias[j]

Derivation. A_ik is used in row i of C, once for each j, with ∂C_ij/∂A_ik = B_kj. B_kj is used in column j, once for
each i, with ∂C_ij/∂B_kj = A_ik. bias_j is used once for each i. By the chain rule

    dA_ik = sum_j dC_ij B_kj            dA = dC B^T
    dB_kj = sum_i A_ik dC_ij            dB = A^T dC
    dbias_j = sum_i dC_ij               dbias = sum over rows of dC

A transposed view costs nothing: the kernels read it in place.
"""

import numba
import numpy as np
from numba import prange

from npgpt.kernels import blocked_product
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.memory import empty
from npgpt.kernels.machine.microkernel import tile_columns, tile_rows
from npgpt.kernels.machine.product import K_BLOCK, first_panel, gemm, multiply_packed, pack_all
from npgpt.kernels.machine.tile_panels import panel_bytes
from npgpt.kernels.machine.vectors import pieces_of
from npgpt.kernels.precision import gemm_dtype_tag

MAX_SMALL_PRODUCT = 64**3  # multiplications; below, NumPy's call is quicker than starting threads
MAX_FEW_ROWS = 3  # fewer than half of a tile
MAX_PANELS = 1 << 26  # bytes of the factor that threads share, at a time


def matmul_numpy(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, add_to: np.ndarray | None = None
) -> np.ndarray:
    """a (M, K), b (K, N), bias (N,) -> (M, N); or, instead of bias, add_to (M, N), which the product is added to"""
    _check(a, b, bias, add_to)
    if add_to is not None:
        add_to += a @ b
        return add_to
    c = a @ b
    return c if bias is None else c + bias


def matmul_blocked(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, add_to: np.ndarray | None = None
) -> np.ndarray:
    """Rows in parallel, by ``blocked_product.add_product_in_blocks``: the version to read."""
    _check(a, b, bias, add_to)
    c = add_to
    if c is None:
        c = np.empty((a.shape[0], b.shape[1]), a.dtype)
        c[...] = 0 if bias is None else bias
    _add_product_by_rows(a, b, c)
    return c


@parallel_jit
def _add_product_by_rows(a, b, c):
    M = c.shape[0]
    for t in prange((M + 63) // 64):
        blocked_product.add_product_in_blocks(a[t * 64 : min(M, t * 64 + 64)], b, c[t * 64 : min(M, t * 64 + 64)])


def matmul_numba(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, add_to: np.ndarray | None = None
) -> np.ndarray:
    """Each of Numba's threads computes a part of C by kernels/machine/product.py. The longer side of C is divided.

    Packing rounds the factors if ``set_matmul_precision`` allows it (precision.py); a few rows or a small product are
    never rounded.
    """
    (M, K), N = a.shape, b.shape[1]
    if M * N * K <= MAX_SMALL_PRODUCT:
        return matmul_numpy(a, b, bias, add_to)
    _check(a, b, bias, add_to)
    c = empty((M, N), a.dtype) if add_to is None else add_to
    bias = None if bias is None else np.ascontiguousarray(bias)
    a, a_row, a_column = _with_strides(a)
    b, b_row, b_column = _with_strides(b)
    if M <= MAX_FEW_ROWS:
        if add_to is None:
            c[...] = 0 if bias is None else bias
        _add_few_rows(a, b if b_column == 1 else b.T, b_column == 1, c)
        return c
    start, start_row = (0, 0) if bias is None else (bias.ctypes.data, 0)
    if add_to is not None:
        start, start_row = c.ctypes.data, N
    dtype_tag = gemm_dtype_tag(c.dtype)
    if pieces_of(dtype_tag):
        lines_of_a, lines_of_b = (a.ctypes.data, a_row, a_column), (b.ctypes.data, b_column, b_row)
        _multiply_in_tiles(M, N, K, lines_of_a, lines_of_b, start, start_row, c, dtype_tag)
    else:
        _multiply_parts(
            M, N, K, a.ctypes.data, a_row, a_column, b.ctypes.data, b_row, b_column, start, start_row, c,
            numba.get_num_threads(), dtype_tag, work=M * N * K // 16
        )  # fmt: skip
    return c


def _check(a, b, bias, add_to):
    """Compiled code checks no bounds; wrong shapes would read or write out of bounds."""
    M, N = a.shape[0], b.shape[1]
    others = [(x, shape) for x, shape in ((bias, (N,)), (add_to, (M, N))) if x is not None]
    arrays = [a, b, *(x for x, _ in others)]
    if a.shape[1] != b.shape[0] or len(others) > 1 or any(x.shape != shape for x, shape in others):
        raise ValueError(f"matmul: the shapes {[x.shape for x in arrays]} don't fit")
    if any(x.dtype != a.dtype for x in arrays):
        raise TypeError(f"matmul: the dtypes {[str(x.dtype) for x in arrays]} are not the same")
    if add_to is not None and not add_to.flags.c_contiguous:
        raise ValueError("matmul: add_to must be contiguous")


@parallel_jit
def _multiply_parts(M, N, K, a, a_row, a_column, b, b_row, b_column, start, start_row, c, parts, dtype_tag):
    size = c.itemsize
    side, tile = (M, tile_rows(dtype_tag)) if M >= N else (N, tile_columns(dtype_tag))
    for part in prange(parts):
        begin, end = _part_start(side, tile, part, parts), _part_start(side, tile, part + 1, parts)
        i, j, m, n = (begin, 0, end - begin, N) if M >= N else (0, begin, M, end - begin)
        if m and n:
            gemm(
                m, n, K, a + i * a_row * size, a_row, a_column, b + j * b_column * size, b_row, b_column,
                start + (i * start_row + j) * size if start else 0, start_row,
                np.int64(c.ctypes.data) + (i * N + j) * size, N, dtype_tag
            )  # fmt: skip


def _multiply_in_tiles(M, N, K, a, b, start, start_row, c, dtype_tag):
    """As ``_multiply_parts``, but the factor along the shorter side is packed once, by all threads for all threads.

    A product in tiles takes so little time that packing would take most of it. a and b: a factor's address, the
    distance from one line to the next and from one step of k to the next; lines are rows of A and columns of B.

    A weight's panels are not kept for the backward pass, which has no use for them: a panel's pairs lie along the axis
    that is summed over, and each matrix is summed over one axis forward (y = x W) and the other backward (dy W^T).
    """
    is_a = M >= N  # whether A is divided
    (shared, line, step), (divided, divided_line, divided_step) = (b, a) if is_a else (a, b)
    lines, parts, size = min(M, N), numba.get_num_threads(), c.itemsize
    steps = max(MAX_PANELS // panel_bytes(lines, K_BLOCK, dtype_tag), 1) * K_BLOCK
    panels = np.empty(panel_bytes(lines, min(steps, K), dtype_tag) + 64, np.uint8)
    for k0 in range(0, K, steps):
        k = min(steps, K - k0)
        _pack_parts(
            lines, k, shared + k0 * step * size, line, step, not is_a, panels, parts, dtype_tag, work=lines * k
        )  # fmt: skip
        _multiply_packed_parts(
            M, N, k, divided + k0 * divided_step * size, divided_line, divided_step, is_a, panels,
            start, start_row, c, parts, dtype_tag, work=M * N * k // 16
        )  # fmt: skip
        start, start_row = c.ctypes.data, N


@parallel_jit
def _pack_parts(lines, K, x, line_step, k_step, is_a, panels, parts, dtype_tag):
    for part in prange(parts):
        tile = tile_rows(dtype_tag) if is_a else tile_columns(dtype_tag)
        first, last = _part_start(lines, tile, part, parts), _part_start(lines, tile, part + 1, parts)
        if first < last:
            pack_all(x, line_step, k_step, lines, K, first, last, is_a, first_panel(panels), dtype_tag)


@parallel_jit
def _multiply_packed_parts(M, N, K, x, line_step, k_step, is_a, panels, start, start_row, c, parts, dtype_tag):
    """The sides of C are M and N; x is A (``is_a``) or B, which isn't packed yet, and whose lines are divided."""
    size = c.itemsize
    for part in prange(parts):
        side, tile = (M, tile_rows(dtype_tag)) if is_a else (N, tile_columns(dtype_tag))
        first, last = _part_start(side, tile, part, parts), _part_start(side, tile, part + 1, parts)
        i, j, m, n = (first, 0, last - first, N) if is_a else (0, first, M, last - first)
        if first < last:
            multiply_packed(
                m, n, K, x + first * line_step * size, line_step, k_step, is_a, first_panel(panels),
                N if is_a else M, start + (i * start_row + j) * size if start else 0, start_row,
                np.int64(c.ctypes.data) + (i * N + j) * size, N, dtype_tag
            )  # fmt: skip


@jit
def _part_start(n, tile, part, parts):
    """The start of a part: where a tile of C ends, which takes ``tile`` of the n rows or columns."""
    return min(n, (n + tile - 1) // tile * part // parts * tile)


def _with_strides(x):
    """The array, copied if neither its rows nor its columns are contiguous, and its two strides in elements."""
    size = x.itemsize
    row, column = x.strides
    if (column != size or row % size) and (row != size or column % size):
        x = np.ascontiguousarray(x)
        row, column = x.strides
    return x, row // size, column // size


@parallel_jit
def _add_few_rows(a, b, by_rows, c):
    """c += a @ b for a few rows of a, as when single tokens are generated: b is read once, in place.

    b (K, N) if ``by_rows``, else (N, K); columns of c in parallel.
    """
    M, N = c.shape
    K = a.shape[1]
    fours = K - K % 4
    for block in prange((N + 127) // 128):
        begin, end = block * 128, min(N, block * 128 + 128)
        for i in range(M):
            part = c[i, begin:end]
            if by_rows:
                for k in range(0, fours, 4):  # four rows of b at once: c is read and written a quarter as often
                    a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
                    b0, b1 = b[k, begin:end], b[k + 1, begin:end]
                    b2, b3 = b[k + 2, begin:end], b[k + 3, begin:end]
                    for j in range(part.size):
                        part[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]
                for k in range(fours, K):
                    row, factor = b[k, begin:end], a[i, k]
                    for j in range(part.size):
                        part[j] += factor * row[j]
            else:
                for j in range(part.size):
                    total, row = c.dtype.type(0), b[begin + j]
                    for k in range(K):
                        total += a[i, k] * row[k]
                    part[j] += total
