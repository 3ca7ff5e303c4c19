"""Cross-entropy of rows of logits with one right class each.

    lse_n  = log sum_j exp(x_nj) = m + log sum_j exp(x_nj - m),  m = max_j x_nj
    loss_n = -log softmax(x_n)[t_n] = lse_n - x_n[t_n]

Derivation. d lse / dx_j = exp(x_j) / sum_k exp(x_k) = softmax(x)_j, and the second term takes 1 from the right class:

    dx_nj = dloss_n (softmax(x_n)_j - 1[j = t_n])

A target equal to ``ignore_index`` has loss 0 and gradient 0.
"""

import numpy as np
from numba import prange

from npgpt.kernels.exp import exp
from npgpt.kernels.jit import parallel_jit


def cross_entropy_forward_numpy(logits, targets, ignore_index):
    """logits (N, V), targets (N,) -> losses (N,), lse (N,)"""
    m = logits.max(axis=-1, keepdims=True)
    lse = (m + np.log(np.exp(logits - m).sum(axis=-1, keepdims=True)))[:, 0]
    counted = targets != ignore_index
    right = logits[np.arange(len(targets)), np.where(counted, targets, 0)]
    return np.where(counted, lse - right, logits.dtype.type(0)), lse


def cross_entropy_backward_numpy(dlosses, logits, targets, lse, ignore_index, out=None):
    """dlosses (N,), logits (N, V), targets (N,), lse (N,) -> dlogits (N, V), in ``out`` (it may be logits)"""
    counted = targets != ignore_index
    dlogits = np.exp(logits - lse[:, None], out=out)
    dlogits[np.arange(len(targets)), np.where(counted, targets, 0)] -= 1
    dlogits *= dlosses[:, None]
    dlogits[~counted] = 0
    return dlogits


def cross_entropy_forward_numba(logits, targets, ignore_index):
    """Rows in parallel, each read twice: its maximum, then the sum of exponentials."""
    N = logits.shape[0]
    losses, lse = np.empty(N, logits.dtype), np.empty(N, logits.dtype)
    _forward_rows(np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64), ignore_index, losses, lse)
    return losses, lse


@parallel_jit
def _forward_rows(logits, targets, ignore_index, losses, lse):
    N, V = logits.shape
    number = logits.dtype.type
    for n in prange(N):
        largest = number(-np.inf)
        for j in range(V):
            if logits[n, j] > largest:  # false for NaN, which then comes out of exp(NaN - largest)
                largest = logits[n, j]
        total = number(0)
        for j in range(V):
            total += exp(logits[n, j] - largest)
        lse[n] = largest + np.log(total)
        losses[n] = lse[n] - logits[n, targets[n]] if targets[n] != ignore_index else number(0)


def cross_entropy_backward_numba(dlosses, logits, targets, lse, ignore_index, out=None):
    """Rows in parallel, one pass."""
    logits, targets = np.ascontiguousarray(logits), np.ascontiguousarray(targets, np.int64)
    out = np.empty_like(logits) if out is None else out
    _backward_rows(np.ascontiguousarray(dlosses), logits, targets, lse, ignore_index, out)
    return out


@parallel_jit
def _backward_rows(dlosses, logits, targets, lse, ignore_index, dlogits):
    N, V = logits.shape
    for n in prange(N):
        if targets[n] == ignore_index:
            for j in range(V):
                dlogits[n, j] = 0
        else:
            for j in range(V):
                dlogits[n, j] = exp(logits[n, j] - lse[n]) * dlosses[n]
            dlogits[n, targets[n]] -= dlosses[n]
