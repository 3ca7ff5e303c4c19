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
from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.machine.memory import empty
from npgpt.kernels.parallel_product import Factor, multiply
from npgpt.kernels.precision import gemm_dtype_tag, is_by_blas

MAX_SMALL_PRODUCT = 64**3  # multiplications; below, NumPy's call is quicker than starting threads
MAX_FEW_ROWS = 3  # fewer than half of a tile
MAX_FEW_COLUMNS = 4096  # of a thread at a time: their sums stay in the core's own cache


def matmul_numpy(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, add_to: np.ndarray | None = None
) -> np.ndarray:
    """a (M, K), b (K, N), bias (N,) -> (M, N); or, instead of bias, add_to (M, N), which the product is added to"""
    _check(a, b, bias, add_to)
    if add_to is not None:
        add_to += a @ b
        return add_to
    c = a @ b
    if bias is not None:
        c += bias
    return c


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
    """Each of Numba's threads computes a part of C: parallel_product.py. Or NumPy's library does (precision.py).

    Packing rounds the factors if ``set_matmul_precision`` allows it (precision.py); a few rows or a small product are
    never rounded.
    """
    (M, K), N = a.shape, b.shape[1]
    if M * N * K <= MAX_SMALL_PRODUCT or (M > MAX_FEW_ROWS and is_by_blas(a.dtype)):
        return matmul_numpy(a, b, bias, add_to)
    _check(a, b, bias, add_to)
    c = empty((M, N), a.dtype) if add_to is None else add_to
    bias = None if bias is None else np.ascontiguousarray(bias)
    a, a_row, a_column = _with_strides(a)
    b, b_row, b_column = _with_strides(b)
    if M <= MAX_FEW_ROWS:
        if add_to is None:
            c[...] = 0 if bias is None else bias
        width = min(MAX_FEW_COLUMNS, -(-N // (16 * numba.get_num_threads())) * 16)
        _add_few_rows(a, b if b_column == 1 else b.T, b_column == 1, c, width)
        return c
    start, start_row = (0, 0) if bias is None else (bias.ctypes.data, 0)
    if add_to is not None:
        start, start_row = c.ctypes.data, N
    A, B = Factor(a.ctypes.data, a_row, a_column, M), Factor(b.ctypes.data, b_column, b_row, N)
    multiply(
        K, *((A, B) if M >= N else (B, A)), M >= N, start, start_row, c, numba.get_num_threads(),
        gemm_dtype_tag(c.dtype), work=M * N * K // 16
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


def _with_strides(x):
    """The array, copied if neither its rows nor its columns are contiguous, and its two strides in elements."""
    size = x.itemsize
    row, column = x.strides
    if (column != size or row % size) and (row != size or column % size):
        x = np.ascontiguousarray(x)
        row, column = x.strides
    return x, row // size, column // size


@parallel_jit
def _add_few_rows(a, b, by_rows, c, width):
    """c += a @ b for a few rows of a, as when single tokens are generated: b is read once, in place.

    b (K, N) if ``by_rows``, else (N, K); columns of c in parallel, ``width`` at a time. Memory is read in pieces of so
    many elements: in short ones it is half as fast.
    """
    M, N = c.shape
    K = a.shape[1]
    fours = K - K % 4
    for block in prange((N + width - 1) // width):
        begin, end = block * width, min(N, block * width + width)
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
