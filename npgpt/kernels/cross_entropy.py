"""Cross-entropy of rows of logits with one right class each.

    m_n    = max_j x_nj,  z_n = sum_j exp(x_nj - m_n)           so softmax(x_n)_j = exp(x_nj - m_n) / z_n
    loss_n = -log softmax(x_n)[t_n] = log z_n - (x_n[t_n] - m_n)

m and z are kept for the backward pass. m + log z = log sum_j exp(x_nj) would be one number, but it is rounded like m,
and a softmax made from it is off by as much: by 5e-4 of itself where logits are around 10,000.

Derivation. d log sum_k exp(x_k) / dx_j = exp(x_j) / sum_k exp(x_k) = softmax(x)_j, and the other term takes 1 from the
right class:

    dx_nj = dloss_n (softmax(x_n)_j - 1[j = t_n])

A target equal to ``ignore_index`` has loss 0 and gradient 0.
"""

import numpy as np
from numba import prange

from npgpt.kernels.exp import exp
from npgpt.kernels.jit import exact_jit, parallel_jit
from npgpt.kernels.row_max import largest


def cross_entropy_forward_numpy(logits, targets, ignore_index):
    """logits (N, V), targets (N,) -> losses (N,), mz (2, N): m and z of each row"""
    m = logits.max(axis=-1, initial=-np.inf)
    z = np.exp(logits - m[:, None]).sum(axis=-1)
    losses = np.zeros_like(m)
    n = np.flatnonzero(targets != ignore_index)
    losses[n] = np.log(z[n]) - (logits[n, targets[n]] - m[n])
    return losses, np.stack([m, z])


def cross_entropy_backward_numpy(dlosses, logits, targets, mz, ignore_index, out=None):
    """dlosses (N,), logits (N, V), targets (N,), mz (2, N) -> dlogits (N, V), in ``out`` (it may be logits)"""
    m, z = mz
    n = np.flatnonzero(targets != ignore_index)
    dlogits = np.exp(logits - m[:, None], out=out)
    dlogits /= z[:, None]
    dlogits[n, targets[n]] -= 1
    dlogits *= dlosses[:, None]
    dlogits[targets == ignore_index] = 0
    return dlogits


def cross_entropy_forward_numba(logits, targets, ignore_index):
    """Rows in parallel, each read twice: its maximum, then the sum of exponentials."""
    N = logits.shape[0]
    losses, mz = np.empty(N, logits.dtype), np.empty((2, N), logits.dtype)
    _forward_rows(np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64), ignore_index, losses, mz)
    return losses, mz


@parallel_jit
def _forward_rows(logits, targets, ignore_index, losses, mz):
    N, V = logits.shape
    number = logits.dtype.type
    for n in prange(N):
        m, z = largest(logits[n]), number(0)
        for j in range(V):
            z += exp(logits[n, j] - m)
        mz[0, n], mz[1, n] = m, z
        losses[n] = _loss(m, z, logits[n, targets[n]]) if targets[n] != ignore_index else number(0)


@exact_jit
def _loss(m, z, right):
    return np.log(z) - (right - m)  # in this order: (log z + m) - right would be rounded like m


def cross_entropy_backward_numba(dlosses, logits, targets, mz, ignore_index, out=None):
    """Rows in parallel, one pass."""
    logits, targets = np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64)
    out = np.empty_like(logits) if out is None else out
    _backward_rows(np.ascontiguousarray(dlosses), logits, targets, mz, ignore_index, out)
    return out


@parallel_jit
def _backward_rows(dlosses, logits, targets, mz, ignore_index, dlogits):
    N, V = logits.shape
    for n in prange(N):
        if targets[n] == ignore_index:
            for j in range(V):
                dlogits[n, j] = 0
        else:
            m, share = mz[0, n], dlosses[n] / mz[1, n]
            for j in range(V):
                dlogits[n, j] = exp(logits[n, j] - m) * share
            dlogits[n, targets[n]] -= dlosses[n]
