import math
from typing import Any

import numpy as np

from npgpt import kernels
from npgpt.ops.dropout import check_dropout
from npgpt.tensor import Tensor, check_tensors


def causal_self_attention(
    qkv: Tensor,
    n_head: int,
    scale: float | None = None,
    padding_mask: np.ndarray | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    cache: Any = None,
) -> Tensor:
    """Each position takes a weighted mean of the values at its own and earlier positions, in n_head independent heads.

    qkv (B, T, 3C): queries, keys and values side by side, each of n_head heads of D = C / n_head elements -> (B, T, C)
    scale           of the scores; None is 1 / sqrt(D)
    padding_mask    (B, T) of bool, False where a position is padding, which is hidden from all; None: there is none. A
                    position from which everything is hidden gets zeros
    dropout, seed   of the attention weights, as in ``dropout``
    cache           holds the keys and values of ``cache.length`` earlier positions (generation/cache.py). Those of qkv
                    are stored after them, and the padding mask covers all: (B, cache.length + T)

    For one head, with * elementwise:

    Forward     A = q k^T           S = scale A, -inf where the key is later or padding         P = softmax(S)
                y = (P * M) v       M = keep / (1 - dropout), all ones without dropout
    Backward    dv = (P * M)^T dy   dP = (dy v^T) * M       dS = P * (dP - rowsum(dP * P))      dA = scale dS
                dq = dA k           dk = dA^T q

    kernels/attention.py derives it. With a cache there is no backward pass: no record leads to the earlier keys and
    values. Source: Vaswani et al. 2017, eq. 1. Raises ValueError on shapes that don't fit.
    """
    check_tensors(qkv)
    if qkv.ndim != 3 or n_head < 1 or not qkv.shape[2] or qkv.shape[2] % (3 * n_head):
        raise ValueError(f"attention: qkv {qkv.shape} is not (B, T, 3C) with C > 0 divisible by {n_head} heads")
    check_dropout(dropout, seed)
    B, T, C3 = qkv.shape
    C, D = C3 // 3, C3 // 3 // n_head
    scale = 1 / math.sqrt(D) if scale is None else scale
    q, k, v = split_heads(qkv.data, n_head)
    Tk = T if cache is None else cache.length + T
    if padding_mask is not None:
        padding_mask = np.asarray(padding_mask)
        if padding_mask.shape != (B, Tk) or padding_mask.dtype != bool:
            raise ValueError(f"the padding mask must be bool {(B, Tk)}, not {padding_mask.dtype} {padding_mask.shape}")
    if cache is not None:
        k, v = cache.store(k, v)
    y, row_max, row_sum = kernels.attention_forward(q, k, v, scale, padding_mask, dropout, seed)

    def backward(dy, needs):
        if cache is not None:
            raise RuntimeError("no gradient goes back through a key/value cache: leave out the cache, or use no_grad()")
        dqkv = np.empty((B, T, C3), dy.dtype)
        dq, dk, dv = split_heads(dqkv, n_head)
        dy = dy.reshape(B, T, n_head, D)
        kernels.attention_backward(dy, q, k, v, row_max, row_sum, scale, dq, dk, dv, padding_mask, dropout, seed)
        return (dqkv,)

    return Tensor.from_op(y.reshape(B, T, C), (qkv,), backward)


def split_heads(qkv: np.ndarray, n_head: int) -> list[np.ndarray]:
    """(B, T, 3C) -> q, k, v, each (B, T, H, D), as views: writing to them writes to qkv."""
    B, T, C3 = qkv.shape
    parts = qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head)
    return [parts[:, :, i] for i in range(3)]
