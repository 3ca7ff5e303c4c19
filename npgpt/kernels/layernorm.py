"""Layer normalisation over the last axis, C elements a row (Ba, Kiros & Hinton 2016).

    mean = (1/C) sum x              variance = (1/C) sum (x - mean)^2       rstd = 1 / sqrt(variance + eps)
    xhat = (x - mean) rstd          y = xhat weight + bias

Derivation. y is linear in weight, in bias and in xhat, and every row uses the same weight and bias:

    dweight = sum over rows of dy xhat          dbias = sum over rows of dy         dxhat = dy weight

From xhat to x, in one row. x_k changes xhat_j in three ways: directly if j = k, through the mean, and through rstd. Let
c_j = x_j - mean, so variance = (1/C) sum_j c_j^2.

    ∂c_j/∂x_k       = 1[j = k] - 1/C                                            (1[j = k] is 1 if j = k, else 0)
    ∂variance/∂x_k  = (2/C) sum_j c_j (1[j = k] - 1/C) = (2/C) c_k              (since the c_j add up to 0)
    ∂rstd/∂x_k      = -(1/2) (variance + eps)^(-3/2) ∂variance/∂x_k = -rstd^3 c_k / C = -rstd^2 xhat_k / C
    ∂xhat_j/∂x_k    = rstd ∂c_j/∂x_k + c_j ∂rstd/∂x_k = rstd (1[j = k] - 1/C - xhat_j xhat_k / C)

    dx_k = sum_j dxhat_j ∂xhat_j/∂x_k = rstd (dxhat_k - mean(dxhat) - xhat_k mean(dxhat xhat))

Two parts of dxhat are subtracted. One is its mean: the same number added to all of x changes no xhat, so a row of dx
adds up to 0. The other is its part along xhat: if eps = 0, stretching x - mean changes no xhat either, and
sum_k dx_k xhat_k = 0. With eps > 0, a stretch changes xhat a little, and a little of this part is left.
"""

import numpy as np
from numba import prange

from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.memory import empty

ROWS_PER_BLOCK = 32  # in the backward pass. One thread adds up their contributions to dweight and dbias


def layernorm_forward_numpy(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (..., C), weight (C,), bias (C,) or None -> y (..., C), mean (...), rstd (...)"""
    C = max(x.shape[-1], 1)  # the mean of no elements is 0 here, not 0 / 0
    mean = (x.sum(axis=-1, dtype=np.float64) / C).astype(x.dtype)  # rstd multiplies its error, by up to 1 / sqrt(eps)
    centred = x - mean[..., None]
    variance = np.square(centred, dtype=np.float64).sum(axis=-1) / C  # float32 can't hold a square above 3e38
    rstd = (1 / np.sqrt(variance + eps)).astype(x.dtype)
    y = centred * rstd[..., None] * weight
    return (y if bias is None else y + bias), mean, rstd


def layernorm_backward_numpy(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dy, x (..., C), weight (C,), mean, rstd (...) -> dx (..., C), dweight (C,), dbias (C,)"""
    C = x.dtype.type(max(x.shape[-1], 1))
    xhat = (x - mean[..., None]) * rstd[..., None]
    dxhat = dy * weight
    dot = (dxhat * xhat).sum(axis=-1, keepdims=True) / C
    dx = rstd[..., None] * (dxhat - dxhat.sum(axis=-1, keepdims=True) / C - xhat * dot)
    rows = tuple(range(x.ndim - 1))
    return dx, (dy * xhat).sum(axis=rows), dy.sum(axis=rows)


def layernorm_forward_numba(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in parallel. A row is finished while it is in the cache."""
    C = x.shape[-1]
    x = np.ascontiguousarray(x)
    y, mean, rstd = empty(x.shape, x.dtype), np.empty(x.shape[:-1], x.dtype), np.empty(x.shape[:-1], x.dtype)
    bias = np.zeros(C, x.dtype) if bias is None else np.ascontiguousarray(bias)
    weight = np.ascontiguousarray(weight)
    rows = mean.size
    _forward_rows(x.reshape(rows, C), weight, bias, x.dtype.type(eps), y.reshape(rows, C), mean.ravel(), rstd.ravel())
    return y, mean, rstd


@parallel_jit
def _forward_rows(x, weight, bias, eps, y, mean, rstd):
    for r in prange(x.shape[0]):
        mean[r], rstd[r] = forward_row(x[r], weight, bias, eps, y[r])


@jit
def forward_row(x, weight, bias, eps, y):
    """One row, on one thread; writes y. -> mean, rstd"""
    scalar = x.dtype.type
    n = scalar(max(x.size, 1))
    total = 0.0  # float64, as in the NumPy version
    for c in range(x.size):
        total += np.float64(x[c])
    m = scalar(total / max(x.size, 1))
    squares = scalar(0)
    for c in range(x.size):
        squares += (x[c] - m) * (x[c] - m)
    s = scalar(1) / np.sqrt(squares / n + eps)
    if not squares < scalar(np.inf):  # an overflow, which is rare; or NaN, which stays
        s = scalar(_rstd_in_float64(x, m, eps))
    for c in range(x.size):
        y[c] = (x[c] - m) * s * weight[c] + bias[c]
    return m, s


@jit
def _rstd_in_float64(row, mean, eps):
    squares = 0.0
    for c in range(row.size):
        distance = np.float64(row[c] - mean)
        squares += distance * distance
    return 1 / np.sqrt(squares / row.size + eps)


def layernorm_backward_numba(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One pass, blocks of rows in parallel. Each has a dweight and dbias of its own, which are added up in order."""
    C = x.shape[-1]
    x, dy, weight = np.ascontiguousarray(x), np.ascontiguousarray(dy), np.ascontiguousarray(weight)
    rows = mean.size
    dx, dparameters = empty(x.shape, x.dtype), np.zeros(((rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK, 2, C), x.dtype)
    x, dy = x.reshape(rows, C), dy.reshape(rows, C)
    _backward(dy, x, weight, mean.ravel(), rstd.ravel(), dx.reshape(rows, C), dparameters)
    dweight, dbias = dparameters.sum(axis=0)
    return dx, dweight, dbias


@parallel_jit
def _backward(dy, x, weight, mean, rstd, dx, dparameters):
    R, C = x.shape
    scalar = x.dtype.type
    n = scalar(max(C, 1))
    for block in prange(dparameters.shape[0]):
        dweight, dbias = dparameters[block, 0], dparameters[block, 1]
        for r in range(block * ROWS_PER_BLOCK, min(R, (block + 1) * ROWS_PER_BLOCK)):
            x_row, dy_row, dx_row = x[r], dy[r], dx[r]
            m, s = mean[r], rstd[r]
            total, dot = scalar(0), scalar(0)
            for c in range(C):
                dxhat = dy_row[c] * weight[c]
                total += dxhat
                dot += dxhat * ((x_row[c] - m) * s)
            total, dot = total / n, dot / n
            for c in range(C):
                dx_row[c] = s * (dy_row[c] * weight[c] - total - (x_row[c] - m) * s * dot)
            for c in range(C):  # a loop of its own, since one with six arrays isn't vectorised
                dweight[c] += dy_row[c] * ((x_row[c] - m) * s)
                dbias[c] += dy_row[c]
