"""Matrix product, with an optional bias added to every row.

    C = A @ B + bias        C[i, j] = sum over k of A[i, k] B[k, j]  + bias[j]

The derivative is made of two more products: with dC given, dA = dC @ B.T and dB = A.T @ dC (each is the only product of
dC and the other factor that has the right shape; written out, dA[i, k] = sum over j of dC[i, j] B[k, j]), dbias = sum
over rows of dC. A transposed view costs nothing here: the kernels read it in place.
"""

import numpy as np
from numba import prange

from npgpt.kernels.blocked_product import add_product
from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.machine.gemm import NO_TRANSPOSE, TRANSPOSE, gemm, one_blas_thread

SHORTEST_TILE, MOST_TILES = 256, 16
SMALL = 64**3  # below so many multiplications NumPy's call is quicker than starting threads, and BLAS uses one thread


def matmul_numpy(a, b, bias=None):
    """a (M, K), b (K, N), bias (N,) -> (M, N)"""
    c = a @ b
    return c if bias is None else c + bias


def matmul_blocked(a, b, bias=None):
    """The same by ``add_product`` alone, rows in parallel: no BLAS."""
    _check(a, b, bias)
    M, N = a.shape[0], b.shape[1]
    c = np.zeros((M, N), a.dtype) if bias is None else np.broadcast_to(bias, (M, N)).copy()
    _add_product_by_rows(a, b, c)
    return c


@parallel_jit
def _add_product_by_rows(a, b, c):
    M = c.shape[0]
    for t in prange((M + 63) // 64):
        add_product(a[t * 64 : min(M, t * 64 + 64)], b, c[t * 64 : min(M, t * 64 + 64)])


def matmul_numba(a, b, bias=None):
    """The product in up to 16 tiles, which Numba's threads share out; each tile is one call of ``gemm``.

    Each call packs its part of a and b anew. Cutting only the longer side of c makes the parts that are packed more
    than once the smaller ones, and was faster than square tiles. The tiles depend on the shape alone, so the result
    doesn't depend on the number of threads.
    """
    _check(a, b, bias)
    (M, K), N = a.shape, b.shape[1]
    if M * N * K <= SMALL:
        return matmul_numpy(a, b, bias)
    transpose_a, lda, a = _layout(a)
    transpose_b, ldb, b = _layout(b)
    c = np.empty((M, N), a.dtype)
    with_bias = bias is not None
    bias = np.ascontiguousarray(bias) if with_bias else np.empty(0, a.dtype)
    with one_blas_thread():
        _multiply_tiles(transpose_a, transpose_b, K, a.ctypes.data, lda, b.ctypes.data, ldb, with_bias, bias, c)
    return c


def _check(a, b, bias):
    """Compiled code doesn't look: what doesn't fit would be read, or written, beyond its end."""
    biases = [] if bias is None else [bias]
    if a.shape[1] != b.shape[0] or any(x.shape != b.shape[1:] for x in biases):
        raise ValueError(f"matmul: the shapes {[x.shape for x in (a, b, *biases)]} don't fit")
    if any(x.dtype != a.dtype for x in (b, *biases)):
        raise TypeError(f"matmul: the dtypes {[str(x.dtype) for x in (a, b, *biases)]} are not the same")


@parallel_jit
def _multiply_tiles(transpose_a, transpose_b, K, a, lda, b, ldb, with_bias, bias, c):
    M, N = c.shape
    size = c.itemsize
    tiles = 1  # a power of two, and all of one size, so that the threads finish together
    while tiles < MOST_TILES and max(M, N) >= 2 * tiles * SHORTEST_TILE:
        tiles *= 2
    for t in prange(tiles):
        i0, i1, j0, j1 = 0, M, 0, N
        if M >= N:
            i0, i1 = t * M // tiles, (t + 1) * M // tiles
        else:
            j0, j1 = t * N // tiles, (t + 1) * N // tiles
        a_tile = a + size * (i0 * lda if transpose_a == NO_TRANSPOSE else i0)
        b_tile = b + size * (j0 if transpose_b == NO_TRANSPOSE else j0 * ldb)
        c_tile = c.ctypes.data + size * (i0 * N + j0)
        if with_bias:
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = bias[j]
        gemm(
            transpose_a, transpose_b, i1 - i0, j1 - j0, K, a_tile, lda, b_tile, ldb, np.int32(with_bias), c_tile, N,
            bias.dtype.type(0)
        )  # fmt: skip


def _layout(x):
    """How BLAS is told to read a matrix in place: (transposed or not, elements from line to line, the array)."""
    size = x.itemsize
    rows, columns = x.shape
    row_step, column_step = x.strides
    if column_step == size and row_step % size == 0 and row_step >= size * columns:
        return np.int32(NO_TRANSPOSE), row_step // size, x
    if row_step == size and column_step % size == 0 and column_step >= size * rows:
        return np.int32(TRANSPOSE), column_step // size, x
    return np.int32(NO_TRANSPOSE), columns, np.ascontiguousarray(x)
