"""Causal attention of H heads: each position looks at itself and at what came before (Vaswani et al. 2017, 3.2).

For one head, with q (Tq, D), k and v (Tk, D). The queries are the last Tq of the Tk positions, so query i stands at
position i + Tk - Tq (Tq = Tk while training; Tq = 1 for a new token whose predecessors' k and v are kept in a cache).

    S = scale q k^T               scores, -inf where j > i + Tk - Tq or where position j is padding
    P = exp(S - m) / z            softmax of each row of S: m is the row's largest score, z the sum of its exp(S - m).
                                  A row that may look at nothing is all zeros (m = 0, z = 1), and so is what follows
    M = keep / (1 - p)            dropout of the weights while training, all ones otherwise
    y = (P * M) v

Derivation, from the last line to the first (* is elementwise):

    dv = (P * M)^T dy                       y is linear in v
    dP = (dy v^T) * M                       and in P
    dS = P * (dP - rowsum(dP * P))          softmax, see softmax.py
    dq = scale dS k,   dk = scale dS^T q    S is linear in q and in k

A score that is hidden may be NaN and nobody learns of it. A value that is hidden has weight 0, and 0 times NaN is NaN:
which hidden ones are multiplied by it at all is up to a version. Gradients of hidden scores are 0 and no product.

P is not kept for the backward pass. Each row's m and z are, and P is made again from them: 2 T numbers a head instead
of T x T (Dao et al. 2022). m + log z would be one number, but it is rounded like m, and P would be off by as much.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from npgpt.kernels.dropout import dropout_threshold, is_kept, keep_mask_numpy
from npgpt.kernels.exp import exp
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.product import add_product
from npgpt.kernels.precision import factors_like
from npgpt.kernels.row_max import largest

ROWS = 64  # queries for which scores are made at a time: 64 x Tk of them, and only up to the last key they may see


def attention_forward_numpy(q, k, v, scale, real=None, dropout=0.0, seed=0):
    """q (B, Tq, H, D), k, v (B, Tk, H, D), real (B, Tk) False for padding -> y (B, Tq, H, D), mz (2, B, H, Tq)"""
    S, hidden = _scores(q, k, scale, real)
    blind = hidden.all(axis=-1, keepdims=True)
    m = np.where(blind, 0, S.max(axis=-1, keepdims=True, initial=-np.inf)).astype(q.dtype)
    e = np.exp(S - m)
    z = np.where(blind, 1, e.sum(axis=-1, keepdims=True)).astype(q.dtype)
    y = (e / z * _dropout_factors(e, dropout, seed)) @ v.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(y.transpose(0, 2, 1, 3)), np.stack([m, z])[..., 0]


def attention_backward_numpy(dy, q, k, v, mz, scale, dq, dk, dv, real=None, dropout=0.0, seed=0):
    """dy (B, Tq, H, D), the forward pass's inputs and mz -> writes dq (B, Tq, H, D), dk and dv (B, Tk, H, D)"""
    S, hidden = _scores(q, k, scale, real)
    m, z = mz[..., None]
    P = np.exp(S - m) / z
    M = _dropout_factors(P, dropout, seed)
    heads_first = (0, 2, 1, 3)
    q, k, v, dy = (x.transpose(heads_first) for x in (q, k, v, dy))
    dP = (dy @ v.swapaxes(-1, -2)) * M
    dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True)) * q.dtype.type(scale)
    dS[hidden] = 0  # P is 0 there already, but 0 times NaN would be NaN
    dq[...] = (dS @ k).transpose(heads_first)
    dk[...] = (dS.swapaxes(-1, -2) @ q).transpose(heads_first)
    dv[...] = ((P * M).swapaxes(-1, -2) @ dy).transpose(heads_first)


def _scores(q, k, scale, real):
    """-> S (B, H, Tq, Tk), -inf for what a query may not see, and where that is (B, H, Tq, Tk)"""
    Tq, Tk = q.shape[1], k.shape[1]
    S = q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1) * q.dtype.type(scale)
    hidden = np.arange(Tk) > np.arange(Tq)[:, None] + (Tk - Tq)
    if real is not None:
        hidden = hidden | ~real[:, None, None, :]
    return np.where(hidden, q.dtype.type(-np.inf), S), np.broadcast_to(hidden, S.shape)


def _dropout_factors(P, dropout, seed):
    return keep_mask_numpy(P.shape, dropout, seed) * P.dtype.type(1 / (1 - dropout))


def attention_forward_numba(q, k, v, scale, real=None, dropout=0.0, seed=0):
    """Heads in parallel, each by blocks of 64 queries, without the keys that a block can't see."""
    (B, Tq, H, D), Tk = q.shape, k.shape[1]
    y, mz = np.empty((B, Tq, H, D), q.dtype), np.empty((2, B, H, Tq), q.dtype)
    q, k, v = arrays = _with_contiguous_heads(q, k, v)
    _forward_heads(
        Tk, *map(_strided, arrays), q.dtype.type(scale), *_mask_arguments(real, B, Tk),
        *_dropout_arguments(q.dtype, dropout, seed), factors_like(q.dtype), y, mz, work=2 * (q.size + k.size)
    )  # fmt: skip
    return y, mz


@parallel_jit
def _forward_heads(Tk, q, k, v, scale, has_padding, real, threshold, factor, seed, factors, y, mz):
    B, Tq, H, D = y.shape
    zero = y.dtype.type(0)
    for head in prange(B * H):
        b, h = head // H, head % H
        S = np.empty((min(ROWS, Tq), Tk), y.dtype)
        for i0 in range(0, Tq, ROWS):
            i1 = min(Tq, i0 + ROWS)
            keys = i1 + Tk - Tq  # the block's last query sees so many
            add_product(  # S = q k^T
                i1 - i0, keys, D, _at(q, b, i0, h), q.step, 1, _at(k, b, 0, h), 1, k.step,
                0, 0, _place(S), Tk, factors
            )  # fmt: skip
            for i in range(i0, i1):
                row = S[i - i0]
                seen = i + Tk - Tq + 1
                _scale_and_mask(row, seen, keys, scale, has_padding, real[b])
                m = _largest(row, seen, has_padding, real[b])
                z = _exponentials(row, keys, m)
                mz[0, b, h, i], mz[1, b, h, i] = m, z
                for j in range(keys):
                    row[j] = row[j] / z
                if threshold > 0:
                    first = np.uint64((head * Tq + i) * Tk)
                    for j in range(seen):
                        row[j] *= factor if is_kept(seed, first + np.uint64(j), threshold) else zero
            add_product(  # y = P v
                i1 - i0, D, keys, _place(S), Tk, 1, _at(v, b, 0, h), v.step, 1,
                0, 0, _place(y[b, i0:, h]), H * D, factors
            )  # fmt: skip


def attention_backward_numba(dy, q, k, v, mz, scale, dq, dk, dv, real=None, dropout=0.0, seed=0):
    """Heads in parallel, each by blocks of 64 queries; a head's dk and dv grow from block to block on one thread."""
    B, Tk = k.shape[:2]
    dy, q, k, v = arrays = _with_contiguous_heads(dy, q, k, v)
    _backward_heads(
        *map(_strided, arrays), np.ascontiguousarray(mz), q.dtype.type(scale), *_mask_arguments(real, B, Tk),
        *_dropout_arguments(q.dtype, dropout, seed), factors_like(q.dtype), dq, dk, dv, work=3 * q.size + 4 * k.size
    )  # fmt: skip


@parallel_jit
def _backward_heads(dy, q, k, v, mz, scale, has_padding, real, threshold, factor, seed, factors, dq, dk, dv):
    B, Tq, H, D = dq.shape
    Tk = dk.shape[1]
    dq_step, dk_step, dv_step = _step(dq), _step(dk), _step(dv)
    zero = dq.dtype.type(0)
    for head in prange(B * H):
        b, h = head // H, head % H
        P = np.empty((min(ROWS, Tq), Tk), dq.dtype)
        dP = np.empty((min(ROWS, Tq), Tk), dq.dtype)
        key, value, dkey, dvalue = _at(k, b, 0, h), _at(v, b, 0, h), _place(dk[b, :, h]), _place(dv[b, :, h])
        dk[b, :, h] = zero
        dv[b, :, h] = zero
        for i0 in range(0, Tq, ROWS):
            i1 = min(Tq, i0 + ROWS)
            n, keys = i1 - i0, i1 + Tk - Tq
            query, dquery, dout = _at(q, b, i0, h), _place(dq[b, i0:, h]), _at(dy, b, i0, h)
            # S = q k^T, still in P, and dP = dy v^T
            add_product(n, keys, D, query, q.step, 1, key, 1, k.step, 0, 0, _place(P), Tk, factors)
            add_product(n, keys, D, dout, dy.step, 1, value, 1, v.step, 0, 0, _place(dP), Tk, factors)
            for i in range(i0, i1):
                p, dp = P[i - i0], dP[i - i0]
                seen = i + Tk - Tq + 1
                _scale_and_mask(p, seen, keys, scale, has_padding, real[b])
                _exponentials(p, keys, mz[0, b, h, i])
                z = mz[1, b, h, i]
                for j in range(keys):
                    p[j] = p[j] / z
                first = np.uint64((head * Tq + i) * Tk)
                if threshold > 0:
                    for j in range(seen):
                        dp[j] *= factor if is_kept(seed, first + np.uint64(j), threshold) else zero
                along = zero
                for j in range(seen):
                    along += dp[j] * p[j]
                for j in range(seen):
                    dp[j] = p[j] * (dp[j] - along) * scale
                if has_padding:
                    for j in range(seen):
                        if not real[b, j]:
                            dp[j] = zero
                for j in range(seen, keys):
                    dp[j] = zero
                if threshold > 0:
                    for j in range(seen):
                        p[j] *= factor if is_kept(seed, first + np.uint64(j), threshold) else zero
            # dq = dS k; dk += dS^T q and dv += P^T dy
            add_product(n, D, keys, _place(dP), Tk, 1, key, k.step, 1, 0, 0, dquery, dq_step, factors)
            add_product(keys, D, n, _place(dP), 1, Tk, query, q.step, 1, dkey, dk_step, dkey, dk_step, factors)
            add_product(keys, D, n, _place(P), 1, Tk, dout, dy.step, 1, dvalue, dv_step, dvalue, dv_step, factors)


@jit
def _scale_and_mask(row, seen, keys, scale, has_padding, real):
    """row[j] = scale row[j]; -inf where j is padding, and from ``seen`` up to ``keys``."""
    hidden = row.dtype.type(-np.inf)
    for j in range(seen):
        row[j] = scale * row[j]
    for j in range(seen, keys):
        row[j] = hidden
    if has_padding:
        for j in range(seen):
            if not real[j]:
                row[j] = hidden


@jit
def _largest(row, seen, has_padding, real):
    """m: the largest of the scores that are seen; 0 if none is."""
    anything = not has_padding
    if has_padding:
        for j in range(seen):
            anything |= real[j]
    return largest(row[:seen]) if anything else row.dtype.type(0)


@jit
def _exponentials(row, keys, m):
    """row[j] = exp(row[j] - m) -> z, their sum; 1 if nothing is seen."""
    z = row.dtype.type(0)
    for j in range(keys):
        e = exp(row[j] - m)
        row[j] = e
        z += e
    return z if z != 0 else row.dtype.type(1)  # where anything is seen, the largest contributes exp(0) = 1


class _Strided(NamedTuple):
    """Where an array (B, T, H, D) lies that is only read. Arrays would have the kernels compiled for each layout."""

    address: int
    batch_stride: int  # in bytes
    position_stride: int
    head_stride: int
    step: int  # position_stride in elements


def _strided(x):
    """x (B, T, H, D), whose last axis is contiguous -> its address and strides"""
    return _Strided(x.ctypes.data, *x.strides[:3], x.strides[1] // x.itemsize)


@jit
def _at(x, b, t, h):
    """The address of element (b, t, h, 0)."""
    return x.address + b * x.batch_stride + t * x.position_stride + h * x.head_stride


@jit
def _place(x):
    """The address of the first element."""
    return np.int64(x.ctypes.data)


@jit
def _step(x):
    """Elements from one position of (B, T, H, D) to the next."""
    return x.strides[1] // x.itemsize


def _with_contiguous_heads(*arrays):
    """Numbers of a head must lie side by side and positions must not overlap; slices of (B, T, 3C) are so already."""
    size = arrays[0].itemsize
    D = arrays[0].shape[-1]
    ok = [x.strides[3] == size and x.strides[1] >= size * D and x.strides[1] % size == 0 for x in arrays]
    return [x if good else np.ascontiguousarray(x) for x, good in zip(arrays, ok, strict=True)]


def _mask_arguments(real, B, Tk):
    return (False, np.ones((B, 0), np.bool_)) if real is None else (True, np.ascontiguousarray(real, np.bool_))


def _dropout_arguments(dtype, dropout, seed):
    return dropout_threshold(dropout), dtype.type(1 / (1 - dropout)), np.uint64(seed)
