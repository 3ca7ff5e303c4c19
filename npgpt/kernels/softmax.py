"""Softmax over the last axis.

    m = max(x)      (subtracted so that exp can't overflow; exp(-m) cancels in the quotient)
    y_j = exp(x_j - m) / sum_k exp(x_k - m)

Derivation. Let e_j = exp(x_j) and z = sum_j e_j, so y_j = e_j / z. x_k changes e_k, and it changes z in every y_j:

    ∂e_j/∂x_k = 1[j = k] e_k                ∂z/∂x_k = e_k               (1[j = k] is 1 if j = k, else 0)

By the quotient rule, (u / v)' = (u' v - u v') / v^2,

    ∂y_j/∂x_k = (1[j = k] e_k z - e_j e_k) / z^2 = y_k (1[j = k] - y_j)

and by the chain rule

    dx_k = sum_j dy_j ∂y_j/∂x_k = sum_j dy_j y_k (1[j = k] - y_j) = y_k (dy_k - sum_j dy_j y_j)

The sum is one number for each row: the mean of dy, weighted with the probabilities y. So dx_k is positive where dy_k is
above that mean. A row of dx adds up to 0: the same number added to all of x changes no y.
"""

import numpy as np
from numba import prange

from npgpt.kernels.exp import exp
from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.row_max import row_maximum


def softmax_forward_numpy(x: np.ndarray) -> np.ndarray:
    """x (..., N) -> y (..., N)

    >>> softmax_forward_numpy(np.log([[1.0, 3.0, 4.0]])).round(3).tolist()
    [[0.125, 0.375, 0.5]]
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward_numpy(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy, y (..., N) -> dx (..., N)"""
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def softmax_forward_numba(x: np.ndarray) -> np.ndarray:
    """Rows in parallel. A row stays in the cache until it is finished."""
    y = np.empty(x.shape, x.dtype)
    _forward_rows(_rows(x), _rows(y))
    return y


@parallel_jit
def _forward_rows(x, y):
    R, N = x.shape
    for r in prange(R):
        m = row_maximum(x[r])
        total = x.dtype.type(0)
        for j in range(N):
            e = exp(x[r, j] - m)
            y[r, j] = e
            total += e
        scale = x.dtype.type(1) / total
        for j in range(N):
            y[r, j] *= scale


def softmax_backward_numba(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rows in parallel."""
    dx = np.empty(y.shape, y.dtype)
    _backward_rows(_rows(dy), _rows(y), _rows(dx))
    return dx


@parallel_jit
def _backward_rows(dy, y, dx):
    R, N = y.shape
    for r in prange(R):
        dot = y.dtype.type(0)
        for j in range(N):
            dot += dy[r, j] * y[r, j]
        for j in range(N):
            dx[r, j] = y[r, j] * (dy[r, j] - dot)


def _rows(x):
    """x as a contiguous matrix of rows."""
    N = x.shape[-1]
    return np.ascontiguousarray(x).reshape(x.size // N if N else 0, N)
