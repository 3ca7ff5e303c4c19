"""Causal attention of H heads: each position looks at itself and at earlier ones (Vaswani et al. 2017, 3.2).

For one head, with q (Tq, D), k and v (Tk, D); * is elementwise. The queries are the last Tq of the Tk positions, so
query i is at position i + Tk - Tq. (While training, Tq = Tk. For a new token after a cache of keys and values, Tq = 1.)

    A = q k^T               products of queries and keys: A_ij = sum_c q_ic k_jc
    S = scale A             scores; hidden ones, where j > i + Tk - Tq or position j is padding, are -inf
    P = exp(S - m) / z      softmax of each row of S: m is the row's largest score, z the sum of its exp(S - m).
                            If all scores of a row are hidden, P and y are 0 there (m = 0, z = 1)
    M = keep / (1 - p)      dropout's factors while training, else all ones
    y = (P * M) v           y_ic = sum_j P_ij M_ij v_jc

Derivation, from the last line to the first. Each sum is the chain rule, over all that the element is used for:

    dv_jc = sum_i P_ij M_ij dy_ic                       dv = (P * M)^T dy
    dP_ij = M_ij sum_c dy_ic v_jc                       dP = (dy v^T) * M
    dS_ij = P_ij (dP_ij - sum_l dP_il P_il)             dS = P * (dP - rowsum(dP * P))      softmax.py derives it
    dA_ij = scale dS_ij, 0 where hidden                 dA = scale dS           a hidden score is -inf, a constant
    dq_ic = sum_j dA_ij k_jc                            dq = dA k
    dk_jc = sum_i dA_ij q_ic                            dk = dA^T q

A NaN in a hidden score has no effect. A NaN in a hidden value may reach the output (0 * NaN = NaN). Whether it does
depends on the version.

Each row's m and z are kept, and the backward pass computes P again from them: 2 T values a head instead of T x T
(Dao et al. 2022). m + log z would be one value, but it is rounded like m, and P would be off by as much.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from npgpt.kernels.dropout import dropout_threshold, is_kept, keep_mask_numpy
from npgpt.kernels.exp import exp
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.product import gemm
from npgpt.kernels.precision import gemm_dtype_tag, narrow_dtype_tag
from npgpt.kernels.row_max import row_maximum

QUERIES_PER_BLOCK = 64  # for which scores are computed at a time: 64 x Tk of them


def attention_forward_numpy(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float,
    padding_mask: np.ndarray | None = None, dropout: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """q (B, Tq, H, D), k, v (B, Tk, H, D), padding_mask (B, Tk) False for padding

    -> y (B, Tq, H, D), row_max (B, H, Tq) and row_sum (B, H, Tq): m and z of each query
    """
    S, hidden = _scores(q, k, scale, padding_mask)
    fully_masked = hidden.all(axis=-1, keepdims=True)
    m = np.where(fully_masked, 0, S.max(axis=-1, keepdims=True, initial=-np.inf)).astype(q.dtype)
    e = np.exp(S - m)
    z = np.where(fully_masked, 1, e.sum(axis=-1, keepdims=True)).astype(q.dtype)
    y = (e / z * _dropout_factors(e, dropout, seed)) @ v.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(y.transpose(0, 2, 1, 3)), m[..., 0], z[..., 0]


def attention_backward_numpy(
    dy: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, row_max: np.ndarray, row_sum: np.ndarray,
    scale: float, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray,
    padding_mask: np.ndarray | None = None, dropout: float = 0.0, seed: int = 0
) -> None:  # fmt: skip
    """dy (B, Tq, H, D) and what the forward pass took and gave -> writes dq (B, Tq, H, D), dk and dv (B, Tk, H, D)"""
    S, hidden = _scores(q, k, scale, padding_mask)
    P = np.exp(S - row_max[..., None]) / row_sum[..., None]
    M = _dropout_factors(P, dropout, seed)
    heads_first = (0, 2, 1, 3)
    q, k, v, dy = (x.transpose(heads_first) for x in (q, k, v, dy))
    dP = (dy @ v.swapaxes(-1, -2)) * M
    dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True))
    dA = dS * q.dtype.type(scale)
    dA[hidden] = 0  # P is 0 there already, but 0 * NaN would be NaN
    dq[...] = (dA @ k).transpose(heads_first)
    dk[...] = (dA.swapaxes(-1, -2) @ q).transpose(heads_first)
    dv[...] = ((P * M).swapaxes(-1, -2) @ dy).transpose(heads_first)


def _scores(q, k, scale, padding_mask):
    """-> S (B, H, Tq, Tk), and which scores are hidden (B, H, Tq, Tk)"""
    Tq, Tk = q.shape[1], k.shape[1]
    S = q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1) * q.dtype.type(scale)
    hidden = np.arange(Tk) > np.arange(Tq)[:, None] + (Tk - Tq)
    if padding_mask is not None:
        hidden = hidden | ~padding_mask[:, None, None, :]
    return np.where(hidden, q.dtype.type(-np.inf), S), np.broadcast_to(hidden, S.shape)


def _dropout_factors(P, dropout, seed):
    return keep_mask_numpy(P.shape, dropout, seed) * P.dtype.type(1 / (1 - dropout))


def attention_forward_numba(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float,
    padding_mask: np.ndarray | None = None, dropout: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Heads in parallel, each by blocks of 64 queries. Keys that are hidden from a whole block are left out."""
    (B, Tq, H, D), Tk = q.shape, k.shape[1]
    y, row_max, row_sum = (np.empty(shape, q.dtype) for shape in ((B, Tq, H, D), (B, H, Tq), (B, H, Tq)))
    q, k, v = arrays = _with_contiguous_heads(q, k, v)
    _forward_heads(
        Tk, *map(_strided, arrays), q.dtype.type(scale), *_mask_arguments(padding_mask, B),
        *_dropout_arguments(q.dtype, dropout, seed), narrow_dtype_tag(gemm_dtype_tag(q.dtype)), y, row_max, row_sum,
        work=2 * (q.size + k.size)
    )  # fmt: skip
    return y, row_max, row_sum


@parallel_jit
def _forward_heads(
    Tk, q, k, v, scale, has_padding, padding_mask, threshold, factor, seed, dtype_tag, y, row_max, row_sum
):
    B, Tq, H, D = y.shape
    for head in prange(B * H):
        b, h = head // H, head % H
        S = np.empty((min(QUERIES_PER_BLOCK, Tq), Tk), y.dtype)
        for i0 in range(0, Tq, QUERIES_PER_BLOCK):
            i1 = min(Tq, i0 + QUERIES_PER_BLOCK)
            n_keys = i1 + Tk - Tq  # as many as the block's last query sees
            gemm(  # A = q k^T
                i1 - i0, n_keys, D, _element_ptr(q, b, i0, h), q.stride, 1, _element_ptr(k, b, 0, h), 1, k.stride,
                0, 0, _data_ptr(S), Tk, dtype_tag
            )  # fmt: skip
            for i in range(i0, i1):
                row = S[i - i0]
                n_visible = i + Tk - Tq + 1
                _scale_and_mask(row, n_visible, n_keys, scale, has_padding, padding_mask[b])
                m = _row_maximum(row, n_visible, has_padding, padding_mask[b])
                z = _exponentials(row, n_keys, m)
                row_max[b, h, i], row_sum[b, h, i] = m, z
                for j in range(n_keys):
                    row[j] = row[j] / z
                _drop(row, n_visible, (head * Tq + i) * Tk, threshold, factor, seed)
            gemm(  # y = (P * M) v
                i1 - i0, D, n_keys, _data_ptr(S), Tk, 1, _element_ptr(v, b, 0, h), v.stride, 1,
                0, 0, _data_ptr(y[b, i0:, h]), H * D, dtype_tag
            )  # fmt: skip


def attention_backward_numba(
    dy: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, row_max: np.ndarray, row_sum: np.ndarray,
    scale: float, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray,
    padding_mask: np.ndarray | None = None, dropout: float = 0.0, seed: int = 0
) -> None:  # fmt: skip
    """Heads in parallel, each by blocks of 64 queries. One thread adds up a head's dk and dv over the blocks."""
    dy, q, k, v = arrays = _with_contiguous_heads(dy, q, k, v)
    row_max, row_sum = np.ascontiguousarray(row_max), np.ascontiguousarray(row_sum)
    _backward_heads(
        *map(_strided, arrays), row_max, row_sum, q.dtype.type(scale), *_mask_arguments(padding_mask, len(k)),
        *_dropout_arguments(q.dtype, dropout, seed), narrow_dtype_tag(gemm_dtype_tag(q.dtype)), dq, dk, dv,
        work=3 * q.size + 4 * k.size
    )  # fmt: skip


@parallel_jit
def _backward_heads(
    dy, q, k, v, row_max, row_sum, scale, has_padding, padding_mask, threshold, factor, seed, dtype_tag, dq, dk, dv
):
    B, Tq, H, D = dq.shape
    Tk = dk.shape[1]
    dq_stride, dk_stride, dv_stride = _stride(dq), _stride(dk), _stride(dv)
    zero = dq.dtype.type(0)
    for head in prange(B * H):
        b, h = head // H, head % H
        P = np.empty((min(QUERIES_PER_BLOCK, Tq), Tk), dq.dtype)
        dP = np.empty((min(QUERIES_PER_BLOCK, Tq), Tk), dq.dtype)
        key, value = _element_ptr(k, b, 0, h), _element_ptr(v, b, 0, h)
        dkey, dvalue = _data_ptr(dk[b, :, h]), _data_ptr(dv[b, :, h])
        dk[b, :, h] = zero
        dv[b, :, h] = zero
        for i0 in range(0, Tq, QUERIES_PER_BLOCK):
            i1 = min(Tq, i0 + QUERIES_PER_BLOCK)
            n, n_keys = i1 - i0, i1 + Tk - Tq
            query, dquery, dout = _element_ptr(q, b, i0, h), _data_ptr(dq[b, i0:, h]), _element_ptr(dy, b, i0, h)
            # A = q k^T, where P will be, and dy v^T, where dP and then dA will be
            gemm(n, n_keys, D, query, q.stride, 1, key, 1, k.stride, 0, 0, _data_ptr(P), Tk, dtype_tag)
            gemm(n, n_keys, D, dout, dy.stride, 1, value, 1, v.stride, 0, 0, _data_ptr(dP), Tk, dtype_tag)
            for i in range(i0, i1):
                p, dp = P[i - i0], dP[i - i0]
                n_visible = i + Tk - Tq + 1
                _scale_and_mask(p, n_visible, n_keys, scale, has_padding, padding_mask[b])
                _exponentials(p, n_keys, row_max[b, h, i])
                z = row_sum[b, h, i]
                for j in range(n_keys):
                    p[j] = p[j] / z
                _drop(dp, n_visible, (head * Tq + i) * Tk, threshold, factor, seed)
                dot = zero
                for j in range(n_visible):
                    dot += dp[j] * p[j]
                for j in range(n_visible):
                    dp[j] = p[j] * (dp[j] - dot) * scale
                if has_padding:
                    for j in range(n_visible):
                        if not padding_mask[b, j]:
                            dp[j] = zero
                for j in range(n_visible, n_keys):
                    dp[j] = zero
                _drop(p, n_visible, (head * Tq + i) * Tk, threshold, factor, seed)
            # dq = dA k, dk += dA^T q and dv += (P * M)^T dy
            gemm(n, D, n_keys, _data_ptr(dP), Tk, 1, key, k.stride, 1, 0, 0, dquery, dq_stride, dtype_tag)
            gemm(n_keys, D, n, _data_ptr(dP), 1, Tk, query, q.stride, 1, dkey, dk_stride, dkey, dk_stride, dtype_tag)
            gemm(n_keys, D, n, _data_ptr(P), 1, Tk, dout, dy.stride, 1, dvalue, dv_stride, dvalue, dv_stride, dtype_tag)


@jit
def _scale_and_mask(row, n_visible, n_keys, scale, has_padding, padding_mask):
    """row[j] = scale row[j]; -inf where j is padding, and from ``n_visible`` up to ``n_keys``."""
    hidden = row.dtype.type(-np.inf)
    for j in range(n_visible):
        row[j] = scale * row[j]
    for j in range(n_visible, n_keys):
        row[j] = hidden
    if has_padding:
        for j in range(n_visible):
            if not padding_mask[j]:
                row[j] = hidden


@jit
def _drop(row, n_visible, first, threshold, factor, seed):
    """Dropout of row[:n_visible]. Its first element is element number ``first`` of (B, H, Tq, Tk)."""
    if threshold > 0:
        first = np.uint64(first)
        for j in range(n_visible):
            row[j] *= factor if is_kept(seed, first + np.uint64(j), threshold) else row.dtype.type(0)


@jit
def _row_maximum(row, n_visible, has_padding, padding_mask):
    """m: the largest visible score; 0 if the row is fully masked."""
    anything = not has_padding
    if has_padding:
        for j in range(n_visible):
            anything |= padding_mask[j]
    return row_maximum(row[:n_visible]) if anything else row.dtype.type(0)


@jit
def _exponentials(row, n_keys, m):
    """row[j] = exp(row[j] - m) -> z, their sum; 1 if the row is fully masked."""
    z = row.dtype.type(0)
    for j in range(n_keys):
        e = exp(row[j] - m)
        row[j] = e
        z += e
    return z if z != 0 else row.dtype.type(1)  # if anything is visible, the largest score contributes exp(0) = 1


class _Strided(NamedTuple):
    """Address and strides of a read-only array. Passing the array itself would compile a kernel for each layout."""

    address: int
    batch_stride: int  # in bytes
    position_stride: int
    head_stride: int
    stride: int  # position_stride in elements


def _strided(x):
    """x (B, T, H, D), whose last axis is contiguous -> its address and strides"""
    return _Strided(x.ctypes.data, *x.strides[:3], x.strides[1] // x.itemsize)


@jit
def _element_ptr(x, b, t, h):
    """The address of element (b, t, h, 0)."""
    return x.address + b * x.batch_stride + t * x.position_stride + h * x.head_stride


@jit
def _data_ptr(x):
    """The address of the first element."""
    return np.int64(x.ctypes.data)


@jit
def _stride(x):
    """Elements from one position of (B, T, H, D) to the next."""
    return x.strides[1] // x.itemsize


def _with_contiguous_heads(*arrays):
    """Copy arrays whose heads are not contiguous or whose positions overlap; slices of (B, T, 3C) need no copy."""
    size = arrays[0].itemsize
    D = arrays[0].shape[-1]
    ok = [x.strides[3] == size and x.strides[1] >= size * D and x.strides[1] % size == 0 for x in arrays]
    return [x if good else np.ascontiguousarray(x) for x, good in zip(arrays, ok, strict=True)]


def _mask_arguments(padding_mask, B):
    if padding_mask is None:
        return False, np.ones((B, 0), np.bool_)
    return True, np.ascontiguousarray(padding_mask, np.bool_)


def _dropout_arguments(dtype, dropout, seed):
    return dropout_threshold(dropout), dtype.type(1 / (1 - dropout)), np.uint64(seed)
