"""Matrix product, with an optional bias added to every row; or added to a matrix that is there.

    C = A @ B + bias        C[i, j] = sum over k of A[i, k] B[k, j]  + bias[j]

The derivative is made of two more products: with dC given, dA = dC @ B.T and dB = A.T @ dC (each is the only product of
dC and the other factor that has the right shape; written out, dA[i, k] = sum over j of dC[i, j] B[k, j]), dbias = sum
over rows of dC. A transposed view costs nothing here: the kernels read it in place.
"""

import numba
import numpy as np
from numba import prange

from npgpt.kernels import blocked_product
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.product import add_product
from npgpt.kernels.precision import factors_like

SMALL = 64**3  # below so many multiplications NumPy's call is quicker than starting threads, and BLAS uses one thread
FEW_ROWS = 3  # fewer than half of a tile


def matmul_numpy(a, b, bias=None, add_to=None):
    """a (M, K), b (K, N), bias (N,) -> (M, N); or, instead of bias, add_to (M, N), to which the product is added"""
    _check(a, b, bias, add_to)
    if add_to is not None:
        add_to += a @ b
        return add_to
    c = a @ b
    return c if bias is None else c + bias


def matmul_blocked(a, b, bias=None, add_to=None):
    """The same by ``blocked_product.add_product``, rows in parallel: the one to read."""
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
        blocked_product.add_product(a[t * 64 : min(M, t * 64 + 64)], b, c[t * 64 : min(M, t * 64 + 64)])


def matmul_numba(a, b, bias=None, add_to=None):
    """Each of Numba's threads makes a part of C with ``add_product`` of kernels/machine/product.py.

    The longer side of C is cut, so that what each thread copies into panels for itself is the shorter one. The factors
    are rounded while they are copied, if ``set_matmul_precision`` lets them (precision.py); a few rows or a small
    product never are.
    """
    (M, K), N = a.shape, b.shape[1]
    if M * N * K <= SMALL:
        return matmul_numpy(a, b, bias, add_to)
    _check(a, b, bias, add_to)
    c = np.empty((M, N), a.dtype) if add_to is None else add_to
    bias = None if bias is None else np.ascontiguousarray(bias)
    a, a_row, a_column = _distances(a)
    b, b_row, b_column = _distances(b)
    if M <= FEW_ROWS:
        if add_to is None:
            c[...] = 0 if bias is None else bias
        _add_few_rows(a, b if b_column == 1 else b.T, b_column == 1, c)
        return c
    start, start_row = (0, 0) if bias is None else (bias.ctypes.data, 0)
    if add_to is not None:
        start, start_row = c.ctypes.data, N
    _multiply_parts(
        M, N, K, a.ctypes.data, a_row, a_column, b.ctypes.data, b_row, b_column, start, start_row, c,
        numba.get_num_threads(), factors_like(c.dtype), work=M * N * K // 16
    )  # fmt: skip
    return c


def _check(a, b, bias, add_to):
    """Compiled code doesn't look: what doesn't fit would be read, or written, beyond its end."""
    M, N = a.shape[0], b.shape[1]
    others = [(x, shape) for x, shape in ((bias, (N,)), (add_to, (M, N))) if x is not None]
    arrays = [a, b, *(x for x, _ in others)]
    if a.shape[1] != b.shape[0] or len(others) > 1 or any(x.shape != shape for x, shape in others):
        raise ValueError(f"matmul: the shapes {[x.shape for x in arrays]} don't fit")
    if any(x.dtype != a.dtype for x in arrays):
        raise TypeError(f"matmul: the dtypes {[str(x.dtype) for x in arrays]} are not the same")
    if add_to is not None and not add_to.flags.c_contiguous:
        raise ValueError("matmul: what the product is added to must be contiguous")


@parallel_jit
def _multiply_parts(M, N, K, a, a_row, a_column, b, b_row, b_column, start, start_row, c, parts, like):
    size = c.itemsize
    side = M if M >= N else N
    for part in prange(parts):
        begin, end = _share(side, part, parts), _share(side, part + 1, parts)
        i, j, m, n = (begin, 0, end - begin, N) if M >= N else (0, begin, M, end - begin)
        if m and n:
            add_product(
                m, n, K, a + i * a_row * size, a_row, a_column, b + j * b_column * size, b_row, b_column,
                start + (i * start_row + j) * size if start else 0, start_row,
                np.int64(c.ctypes.data) + (i * N + j) * size, N, like
            )  # fmt: skip


@jit
def _share(n, part, parts):
    """Where a part begins: at a multiple of 96, where tiles of 4, 6, 8, 12, 16 and 32 rows or columns all end."""
    return min(n, ((n + 95) // 96 * part // parts) * 96)


def _distances(x):
    """The array, copied if neither its rows nor its columns are contiguous; from row to row, from column to column."""
    size = x.itemsize
    row, column = x.strides
    if (column != size or row % size) and (row != size or column % size):
        x = np.ascontiguousarray(x)
        row, column = x.strides
    return x, row // size, column // size


@parallel_jit
def _add_few_rows(a, b, by_rows, c):
    """c += a @ b for a few rows of a, as when single tokens are generated: b is read once, and where it lies.

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
