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

import numpy as np
from numba import prange

from npgpt.kernels.dropout import dropout_threshold, is_kept, keep_mask_numpy
from npgpt.kernels.exp import exp
from npgpt.kernels.heads import (
    data_ptr,
    element_ptr,
    packed_columns,
    packed_rows,
    rows_times,
    stride_of,
    strided,
    times_columns,
    with_contiguous_heads,
)
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.memory import empty
from npgpt.kernels.machine.product import gemm
from npgpt.kernels.precision import gemm_dtype_tag, narrow_dtype_tag

# Scores are computed for so many queries at a time. Larger blocks have fewer tiles to begin and to end, but more hidden
# scores, which are computed for nothing: in a short window, many of all.
QUERIES_PER_BLOCK, IN_A_LONG_WINDOW, LONG_WINDOW = 32, 96, 512


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
    """Heads in parallel, each by blocks of 32 queries or more. Keys that are hidden from a whole block are left out.

    A block's scores are transposed: a row for each key, a column for each query. So the maximum and the sum over the
    keys are taken for all queries at once, which compiles to vector instructions, whatever the number of keys is. The
    last block may have fewer queries: its other columns hold arbitrary numbers, which are never used.
    """
    (B, Tq, H, D), Tk = q.shape, k.shape[1]
    y, row_max, row_sum = (empty(shape, q.dtype) for shape in ((B, Tq, H, D), (B, H, Tq), (B, H, Tq)))
    q, k, v = arrays = with_contiguous_heads(q, k, v)
    _forward_heads(
        Tk, _queries_per_block(Tq), *map(strided, arrays), q.dtype.type(scale), _seen_from(padding_mask, B, Tk),
        *_dropout_arguments(q.dtype, dropout, seed), narrow_dtype_tag(gemm_dtype_tag(q.dtype)), y, row_max, row_sum,
        work=2 * (q.size + k.size)
    )  # fmt: skip
    return y, row_max, row_sum


@parallel_jit
def _forward_heads(Tk, W, q, k, v, scale, seen_from, threshold, factor, seed, dtype_tag, y, row_max, row_sum):
    B, Tq, H, D = y.shape
    for head in prange(B * H):
        b, h = head // H, head % H
        S = np.empty((Tk, W), y.dtype)
        m, z = np.empty(W, y.dtype), np.empty(W, y.dtype)
        keys, values = packed_rows(k, b, h, Tk, D, dtype_tag), packed_columns(v, b, h, Tk, D, dtype_tag)
        for i0 in range(0, Tq, W):
            n = min(W, Tq - i0)
            first = i0 + Tk - Tq  # the position of the block's first query
            n_keys = first + n  # as many as its last query sees
            rows_times(keys, Tk, n_keys, q, b, i0, h, n, D, S, dtype_tag)  # A^T = k q^T
            _scale_and_hide(S[:n_keys], first, scale, seen_from[b])
            _softmax(S[:n_keys], first, seen_from[b], m, z)
            for i in range(n):
                row_max[b, h, i0 + i], row_sum[b, h, i0 + i] = m[i], z[i]
            _drop(S[:n_keys], (head * Tq + i0) * Tk, Tk, threshold, factor, seed)
            times_columns(S, n_keys, n, values, Tk, D, data_ptr(y[b, i0:, h]), H * D, dtype_tag)  # (exp(S - m) * M) v
            for i in range(n):
                row = y[b, i0 + i, h]
                for c in range(D):
                    row[c] = row[c] / z[i]


def attention_backward_numba(
    dy: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, row_max: np.ndarray, row_sum: np.ndarray,
    scale: float, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray,
    padding_mask: np.ndarray | None = None, dropout: float = 0.0, seed: int = 0
) -> None:  # fmt: skip
    """Heads in parallel, each by blocks of queries, as in the forward pass.

    One thread adds up a head's dk and dv over the blocks.
    """
    dy, q, k, v = arrays = with_contiguous_heads(dy, q, k, v)
    row_max, row_sum = np.ascontiguousarray(row_max), np.ascontiguousarray(row_sum)
    _backward_heads(
        _queries_per_block(q.shape[1]), *map(strided, arrays), row_max, row_sum, q.dtype.type(scale),
        _seen_from(padding_mask, *k.shape[:2]), *_dropout_arguments(q.dtype, dropout, seed),
        narrow_dtype_tag(gemm_dtype_tag(q.dtype)), dq, dk, dv, work=3 * q.size + 4 * k.size
    )  # fmt: skip


@parallel_jit
def _backward_heads(W, dy, q, k, v, row_max, row_sum, scale, seen_from, threshold, factor, seed, dtype_tag, dq, dk, dv):
    B, Tq, H, D = dq.shape
    Tk = dk.shape[1]
    dq_stride, dk_stride, dv_stride = stride_of(dq), stride_of(dk), stride_of(dv)
    zero = dq.dtype.type(0)
    for head in prange(B * H):
        b, h = head // H, head % H
        P, dP = np.empty((Tk, W), dq.dtype), np.empty((Tk, W), dq.dtype)
        m, z = np.zeros(W, dq.dtype), np.ones(W, dq.dtype)
        keys, values = packed_rows(k, b, h, Tk, D, dtype_tag), packed_rows(v, b, h, Tk, D, dtype_tag)
        columns = packed_columns(k, b, h, Tk, D, dtype_tag)
        dkey, dvalue = data_ptr(dk[b, :, h]), data_ptr(dv[b, :, h])
        dk[b, :, h] = zero
        dv[b, :, h] = zero
        for i0 in range(0, Tq, W):
            n = min(W, Tq - i0)
            first = i0 + Tk - Tq
            n_keys = first + n
            rows_times(keys, Tk, n_keys, q, b, i0, h, n, D, P, dtype_tag)  # A^T = k q^T, where P^T will be
            rows_times(values, Tk, n_keys, dy, b, i0, h, n, D, dP, dtype_tag)  # v dy^T, where dA^T will be
            for i in range(n):
                m[i], z[i] = row_max[b, h, i0 + i], row_sum[b, h, i0 + i]
            _scale_and_hide(P[:n_keys], first, scale, seen_from[b])
            _drop(dP[:n_keys], (head * Tq + i0) * Tk, Tk, threshold, factor, seed)
            _softmax_backward(P[:n_keys], dP[:n_keys], first, scale, seen_from[b], m, z)
            _drop(P[:n_keys], (head * Tq + i0) * Tk, Tk, threshold, factor, seed)
            # dq = dA k, dk += dA^T q and dv += (P * M)^T dy
            times_columns(dP, n_keys, n, columns, Tk, D, data_ptr(dq[b, i0:, h]), dq_stride, dtype_tag)
            query, dout = element_ptr(q, b, i0, h), element_ptr(dy, b, i0, h)
            gemm(n_keys, D, n, data_ptr(dP), W, 1, query, q.stride, 1, dkey, dk_stride, dkey, dk_stride, dtype_tag)
            gemm(n_keys, D, n, data_ptr(P), W, 1, dout, dy.stride, 1, dvalue, dv_stride, dvalue, dv_stride, dtype_tag)


@jit
def _scale_and_hide(A, first, scale, seen_from):
    """In place, A^T (keys, W) -> S^T. Column i is the query at position first + i.

    seen_from   (keys,) the position of the first query that sees a key

    S is rounded here, in both passes alike: m is one of its elements, and exp(S - m) must be 1 there.
    """
    hidden = A.dtype.type(-np.inf)
    for j in range(len(A)):
        row, sees_it = A[j], seen_from[j] - first
        for i in range(row.size):
            s = scale * row[i]
            row[i] = s if i >= sees_it else hidden


@jit
def _softmax(S, first, seen_from, m, z):
    """In place, S^T (keys, W) -> exp(S - m)^T; writes m and z (W,)."""
    m[:], z[:] = -np.inf, 0
    for j in range(len(S)):
        row = S[j]
        for i in range(m.size):
            m[i] = row[i] if row[i] > m[i] else m[i]
    nearest = seen_from.min()
    for i in range(min(nearest - first, m.size)):
        m[i] = 0  # nothing is visible
    for j in range(len(S)):
        row = S[j]
        for i in range(m.size):
            e = exp(row[i] - m[i])
            row[i] = e
            z[i] += e
    for i in range(m.size):
        z[i] = z[i] if z[i] != 0 else 1  # if anything is visible, the largest score contributes exp(0) = 1


@jit
def _softmax_backward(P, dP, first, scale, seen_from, m, z):
    """In place, P (keys, W): S^T -> P^T, and dP (keys, W): dP^T -> dA^T; with m and z (W,) of the forward pass."""
    zero = P.dtype.type(0)
    sums = np.zeros(m.size, P.dtype)  # rowsum(dP * P)
    inverse = P.dtype.type(1) / z
    for j in range(len(P)):
        p, dp = P[j], dP[j]
        for i in range(m.size):
            x = exp(p[i] - m[i]) * inverse[i]
            p[i] = x
            sums[i] += x * dp[i]
    for j in range(len(P)):
        p, dp, sees_it = P[j], dP[j], seen_from[j] - first
        for i in range(m.size):
            x = p[i] * (dp[i] - sums[i]) * scale
            dp[i] = x if i >= sees_it else zero  # p is 0 there, but 0 * NaN would be NaN


@jit
def _drop(x, first, Tk, threshold, factor, seed):
    """Dropout of x (keys, W), in place. Its element (j, i) is number first + i Tk + j of (B, H, Tq, Tk)."""
    if threshold > 0:
        for j in range(len(x)):
            row = x[j]
            for i in range(row.size):
                row[i] *= factor if is_kept(seed, np.uint64(first + i * Tk + j), threshold) else row.dtype.type(0)


def _queries_per_block(Tq):
    """W in compiled code. It is an argument there: LLVM would unroll loops over a known 32 and not vectorise them."""
    return max(1, min(QUERIES_PER_BLOCK, Tq)) if Tq < LONG_WINDOW else IN_A_LONG_WINDOW


def _seen_from(padding_mask, B, Tk):
    """-> (B, Tk) the position of the first query that sees a key: the key's own; padding is seen from none."""
    positions = np.broadcast_to(np.arange(Tk), (B, Tk))
    return positions.copy() if padding_mask is None else np.where(padding_mask, positions, 2**31)


def _dropout_arguments(dtype, dropout, seed):
    return dropout_threshold(dropout), dtype.type(1 / (1 - dropout)), np.uint64(seed)
