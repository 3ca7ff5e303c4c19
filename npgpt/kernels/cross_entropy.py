"""Cross-entropy of rows of logits, with one target class each.

    m_n    = max_j x_nj,  z_n = sum_j exp(x_nj - m_n)           so softmax(x_n)_j = exp(x_nj - m_n) / z_n
    loss_n = -log softmax(x_n)[t_n] = log z_n - (x_n[t_n] - m_n)

m and z are kept for the backward pass. m + log z = log sum_j exp(x_nj) would be one value. But it is rounded as
coarsely as m, and a softmax computed from it is off by as much: by 5e-4 of itself where logits are around 10,000.

Derivation. m cancels: loss_n = log sum_k exp(x_nk) - x_n[t_n]. The derivative of a logarithm is 1 over its argument,
and only the term k = j of the sum depends on x_nj:

    ∂(log sum_k exp(x_nk))/∂x_nj = exp(x_nj) / sum_k exp(x_nk) = softmax(x_n)_j
    ∂(x_n[t_n])/∂x_nj = 1[j = t_n]                                              (1 if j = t_n, else 0)
    dx_nj = dloss_n (softmax(x_n)_j - 1[j = t_n])

A target equal to ``ignore_index`` has loss 0 and gradient 0.
"""

import numpy as np
from numba import prange

from npgpt.kernels.exp import exp
from npgpt.kernels.jit import exact_jit, parallel_jit
from npgpt.kernels.row_max import row_maximum


def cross_entropy_forward_numpy(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logits (N, V), targets (N,) -> losses (N,), row_max (N,) and row_sum (N,): m and z of each row"""
    m = logits.max(axis=-1, initial=-np.inf)
    z = np.exp(logits - m[:, None]).sum(axis=-1)
    losses = np.zeros_like(m)
    n = np.flatnonzero(targets != ignore_index)
    losses[n] = np.log(z[n]) - (logits[n, targets[n]] - m[n])
    return losses, m, z


def cross_entropy_backward_numpy(
    dlosses: np.ndarray, logits: np.ndarray, targets: np.ndarray, row_max: np.ndarray, row_sum: np.ndarray,
    ignore_index: int, out: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """dlosses (N,), logits (N, V), targets, row_max, row_sum (N,) -> dlogits (N, V), in ``out`` (it may be logits)"""
    n = np.flatnonzero(targets != ignore_index)
    dlogits = np.exp(logits - row_max[:, None], out=out)
    dlogits /= row_sum[:, None]
    dlogits[n, targets[n]] -= 1
    dlogits *= dlosses[:, None]
    dlogits[targets == ignore_index] = 0
    return dlogits


def cross_entropy_forward_numba(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in parallel. A row is read twice: for its maximum, and for the sum of exponentials."""
    N = logits.shape[0]
    losses, row_max, row_sum = (np.empty(N, logits.dtype) for _ in range(3))
    logits, targets = np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64)
    _forward_rows(logits, targets, ignore_index, losses, row_max, row_sum)
    return losses, row_max, row_sum


@parallel_jit
def _forward_rows(logits, targets, ignore_index, losses, row_max, row_sum):
    N, V = logits.shape
    scalar = logits.dtype.type
    for n in prange(N):
        m, z = row_maximum(logits[n]), scalar(0)
        for j in range(V):
            z += exp(logits[n, j] - m)
        row_max[n], row_sum[n] = m, z
        losses[n] = _loss(m, z, logits[n, targets[n]]) if targets[n] != ignore_index else scalar(0)


@exact_jit
def _loss(m, z, target_logit):
    return np.log(z) - (target_logit - m)  # in this order: (log z + m) - target_logit would be rounded like m


def cross_entropy_backward_numba(
    dlosses: np.ndarray, logits: np.ndarray, targets: np.ndarray, row_max: np.ndarray, row_sum: np.ndarray,
    ignore_index: int, out: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """Rows in parallel, one pass."""
    logits, targets = np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64)
    out = np.empty_like(logits) if out is None else out
    _backward_rows(np.ascontiguousarray(dlosses), logits, targets, row_max, row_sum, ignore_index, out)
    return out


@parallel_jit
def _backward_rows(dlosses, logits, targets, row_max, row_sum, ignore_index, dlogits):
    N, V = logits.shape
    for n in prange(N):
        if targets[n] == ignore_index:
            for j in range(V):
                dlogits[n, j] = 0
        else:
            m, scale = row_max[n], dlosses[n] / row_sum[n]
            for j in range(V):
                dlogits[n, j] = exp(logits[n, j] - m) * scale
            dlogits[n, targets[n]] -= dlosses[n]
