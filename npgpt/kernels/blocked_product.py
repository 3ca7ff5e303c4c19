"""The matrix product as three loops, arranged so that the cache and the vector unit are used. The one to read first."""

import numpy as np

from npgpt.kernels.jit import jit

BLOCK_K, BLOCK_N = 256, 64


@jit
def add_product_in_blocks(A, B, C):
    """C += A @ B.   A (M, K), B (K, N), C (M, N), any strides

    The textbook's order of loops (i, j, k) walks down a column of B, a jump in memory for each element. Here the
    innermost loop runs along rows of B and C, which the compiler turns into vector instructions; and B is taken in
    blocks of 256 x 64 (64 KiB in float32), copied to one place, so that each stays in the cache while all rows of A
    pass over it. Four steps of k at once read and write C a quarter as often.
    """
    M, K = A.shape
    N = B.shape[1]
    block = np.zeros((BLOCK_K, BLOCK_N), B.dtype)
    for j0 in range(0, N, BLOCK_N):
        n = min(BLOCK_N, N - j0)
        for k0 in range(0, K, BLOCK_K):
            size = min(BLOCK_K, K - k0)
            for k in range(size):
                for j in range(n):
                    block[k, j] = B[k0 + k, j0 + j]
            for i in range(M):
                fours = size - size % 4
                for k in range(0, fours, 4):
                    a0, a1, a2, a3 = A[i, k0 + k], A[i, k0 + k + 1], A[i, k0 + k + 2], A[i, k0 + k + 3]
                    for j in range(n):
                        s = a0 * block[k, j] + a1 * block[k + 1, j] + a2 * block[k + 2, j] + a3 * block[k + 3, j]
                        C[i, j0 + j] += s
                for k in range(fours, size):
                    a0 = A[i, k0 + k]
                    for j in range(n):
                        C[i, j0 + j] += a0 * block[k, j]
