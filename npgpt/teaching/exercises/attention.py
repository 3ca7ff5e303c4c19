"""Attention of one head: without a mask, with the causal mask, and backward."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from npgpt import kernels, ops
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values


def heads(*arrays: np.ndarray) -> list[np.ndarray]:
    """(T, D) -> (1, T, 1, D), as the kernel takes them: one text, one head"""
    return [np.ascontiguousarray(x)[None, :, None] for x in arrays]


def _package_attention(q, k, v):
    """The kernel's: the queries are the last ones of the positions."""
    y, _, _ = kernels.attention_forward(*heads(q, k, v), 1 / math.sqrt(q.shape[1]))
    return y[0, :, 0]


def _softmax(S, axis=-1):
    with np.errstate(invalid="ignore"):
        e = np.exp(S - S.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float | None = None,
    axis: int = -1,
    hidden: np.ndarray | None = None,
    softmax: Callable[..., np.ndarray] = _softmax,
) -> np.ndarray:
    """Attention with things that can be got wrong: q (Tq, D), k and v (Tk, D) -> y (Tq, D).

    ``hidden`` (Tq, Tk) is True where a score is -inf.
    """
    S = q @ k.T * (1 / math.sqrt(q.shape[1]) if scale is None else scale)
    return softmax(S if hidden is None else np.where(hidden, -np.inf, S), axis=axis) @ v


def without_maximum(S: np.ndarray, axis: int = -1) -> np.ndarray:
    """The softmax of S (Tq, Tk) without subtracting the maximum: it overflows."""
    return np.exp(S) / np.exp(S).sum(axis=axis, keepdims=True)


def queries_keys_values(Tq: int, Tk: int, D: int) -> dict[str, np.ndarray]:
    """The arguments of a case."""
    return {"q": values(Tq, D), "k": values(Tk, D, seed=1), "v": values(Tk, D, seed=2)}


ATTENTION = Exercise(
    name="attention",
    title="Attention without a mask.",
    task="""
Each query looks at all keys, and takes a weighted mean of the values:

    S = q k^T / sqrt(D)         a score for each query i and key j
    P = softmax(S)              each query's weights add up to 1
    y = P v

Write y, with NumPy. (The backward pass comes in attention_backward.)
""",
    read="docs/course/06-attention.md, npgpt/kernels/attention.py (after you tried)",
    signature="attention(q, k, v)",
    gives="q (Tq, D), k, v (Tk, D) -> y (Tq, D)",
    outputs=("y",),
    # The newest position looks at all the others: so each query is given to the kernel as the newest.
    reference=lambda q, k, v: np.concatenate([_package_attention(query[None], k, v) for query in q]),
    cases=(
        Case("4 queries, 4 keys", queries_keys_values(4, 4, 3)),
        Case("2 queries, 5 keys", queries_keys_values(2, 5, 4)),
        Case("one of each", queries_keys_values(1, 1, 2)),
        Case("scores of thousands", {**queries_keys_values(2, 3, 4), "q": values(2, 4) * [[1000.0], [1.0]]}),
    ),
    mistakes=(
        Mistake(
            lambda q, k, v: attention(q, k, v, scale=1.0),
            "1 / sqrt(D) is missing. How large is the dot product of two random vectors of D elements?",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, scale=1 / q.shape[1]),
            "Divide by the root of D, and not by D: the dot product grows like the root.",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, axis=0),
            "Whose weights add up to 1, a query's or a key's? Along which axis of S are the keys?",
        ),
        Mistake(lambda q, k, v: attention(q, v, k), "k and v are swapped: scores are of keys, the mean is of values."),
        Mistake(lambda q, k, v: attention(k, q, v), "q and k are swapped: a row of S is for a query."),
        Mistake(lambda q, k, v: q @ k.T / math.sqrt(q.shape[1]) @ v, "The softmax of the scores is missing."),
        Mistake(
            partial(attention, softmax=without_maximum),
            "What is exp(1000)? Subtract each row's largest score first: P stays the same.",
        ),
    ),
)


def later(q: np.ndarray, k: np.ndarray, first: int = 0) -> np.ndarray:
    """(Tq, Tk) of bool: True where the key is later than the query. ``first`` is the first query's position."""
    return np.arange(len(k)) > np.arange(len(q))[:, None] + first


def _zeroed(q, k, v):
    P = _softmax(q @ k.T / math.sqrt(q.shape[1]))
    return np.where(later(q, k), 0, P) @ v


CAUSAL_ATTENTION = Exercise(
    name="causal_attention",
    title="Attention with the causal mask.",
    task="""
As in ``attention``, but a position looks at itself and at earlier ones only:

    S_ij = q_i k_j / sqrt(D), and -inf where j > i
    P = softmax(S)              exp(-inf) is 0
    y = P v

Write y.
""",
    read="docs/course/06-attention.md, npgpt/kernels/attention.py (after you tried)",
    signature="causal_attention(q, k, v)",
    gives="q, k, v (T, D) -> y (T, D)",
    outputs=("y",),
    reference=_package_attention,
    cases=(
        Case("4 positions", queries_keys_values(4, 4, 3)),
        Case("5 positions, D = 2", queries_keys_values(5, 5, 2)),
        Case("one position", queries_keys_values(1, 1, 2)),
        Case("scores of thousands", {**queries_keys_values(4, 4, 3), "q": 1000 * values(4, 3)}),
        Case(
            "a last value that is huge",
            {**queries_keys_values(3, 3, 2), "v": np.array([[1.0, 2.0], [0.5, -1.0], [1e30, 1e30]])},
        ),
    ),
    mistakes=(
        Mistake(
            lambda q, k, v: attention(q, k, v, hidden=later(q, k, -1)),
            "The mask is off by one. May a position attend to itself? The first one has nothing else.",
        ),
        Mistake(
            lambda q, k, v: np.nan_to_num(attention(q, k, v, hidden=later(q, k, -1))),
            "The mask is off by one. May a position attend to itself? The first one has nothing else.",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, hidden=later(q, k, 1)),
            "The mask is off by one: position 0 sees position 1, which is later.",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, hidden=later(q, k).T),
            "The mask is turned around: your positions see later ones, and not earlier ones. Which index is the key's?",
        ),
        Mistake(lambda q, k, v: attention(q, k, v), "That is without a mask: each position sees the future."),
        Mistake(
            _zeroed,
            "You set weights to 0 after softmax. Do the others of the row still add up to 1? Mask earlier.",
        ),
        Mistake(
            lambda q, k, v: _softmax(np.where(later(q, k), 0, q @ k.T / math.sqrt(q.shape[1]))) @ v,
            "A score of 0 is not hidden: exp(0) is 1. Which score has the weight 0?",
        ),
        Mistake(
            lambda q, k, v: attention(q, v, k, hidden=later(q, k)),
            "k and v are swapped: scores are of keys, the mean is of values.",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, scale=1.0, hidden=later(q, k)),
            "1 / sqrt(D) is missing. How large is the dot product of two random vectors of D elements?",
        ),
    ),
)


def _backward(dy, q, k, v, row_sum=True, alone=False, scaled=True, mask=True, dq_of=None, dk=None, dv=None):
    scale = 1 / math.sqrt(q.shape[1])
    P = _softmax(np.where(later(q, k) & mask, -np.inf, scale * q @ k.T))
    dP = dy @ v.T
    others = dP * P if alone else (dP * P).sum(axis=-1, keepdims=True) * row_sum
    dA = P * (dP - others) * (scale if scaled else 1)
    return dA @ (k if dq_of is None else q), dk(dA, q) if dk else dA.T @ q, dv(P, dy) if dv else P.T @ dy


def _causal(q, k, v):
    """The package's operation, which takes q, k and v side by side: products put them there, so gradients come back."""
    T, D = q.shape
    places = np.eye(3 * D).reshape(3, D, 3 * D)
    qkv = (q @ places[0] + k @ places[1] + v @ places[2]).reshape(1, T, 3 * D)
    return ops.causal_self_attention(qkv, n_head=1).reshape(T, D)


ATTENTION_BACKWARD = Exercise(
    name="attention_backward",
    title="Attention with the causal mask, backward.",
    task="""
    A = q k^T
    S = A / sqrt(D), and -inf where j > i       hidden scores are constants
    P = softmax(S)
    y = P v

Write dq, dk and dv, from the last line to the first: dv and dP, then dS by
softmax's backward pass, then dA, then dq and dk. Compute P again from q and k.
""",
    read="docs/course/06-attention.md, npgpt/kernels/attention.py (after you tried)",
    signature="attention_backward(dy, q, k, v)",
    gives="dy, q, k, v (T, D) -> dq, dk, dv",
    outputs=("dq", "dk", "dv"),
    forward=_causal,
    cases=(
        Case("3 positions, D = 3", queries_keys_values(3, 3, 3)),
        Case("4 positions, D = 2", queries_keys_values(4, 4, 2)),
        Case("one position", queries_keys_values(1, 1, 2)),
        Case("scores of thousands", {**queries_keys_values(4, 4, 3), "q": 1000 * values(4, 3)}, by_differences=False),
    ),
    mistakes=(
        Mistake(
            partial(_backward, row_sum=False),
            "The row's sum is missing. The weights of a query add up to 1: see softmax's derivative.",
        ),
        Mistake(
            partial(_backward, alone=True),
            "P_ij (1 - P_ij) is the slope of P_ij for S_ij alone. S_ij moves the other weights of its row as well.",
        ),
        Mistake(partial(_backward, scaled=False), "S is A / sqrt(D). So dA is dS times what?"),
        Mistake(
            partial(_backward, mask=False),
            "P without the mask: is it the P of the forward pass? A hidden position gets no gradient.",
        ),
        Mistake(partial(_backward, dq_of="q"), "A = q k^T: by what is dA multiplied to give dq?"),
        Mistake(
            partial(_backward, dk=lambda dA, q: dA @ q, dv=lambda P, dy: P @ dy),
            "y_i = sum_j P_ij v_j. v_j is used for every query i, with P_ij: over which index of P does the sum for "
            "dv_j run? The same with dk.",
        ),
        Mistake(lambda *a: (None, None, a[3]), "That is v. dv is a product of the weights and dy."),
    ),
)
