"""The backward passes at a model's two ends, and of the layer norms between."""

from functools import partial

import numpy as np

from npgpt import ops
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values

# Cross-entropy


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _cross_entropy(dloss, logits, targets, subtract=1.0, n=None, ignored=0.0):
    counted = targets != -100
    dlogits = _softmax(logits)
    dlogits[np.arange(len(targets))[counted], targets[counted]] -= subtract
    dlogits[~counted] *= ignored
    return dlogits * dloss / (max(1, counted.sum()) if n is None else n)


_TARGETS, _SOME = np.array([2, 0, 4]), np.array([1, -100, 3, -100])

CROSS_ENTROPY = Exercise(
    name="cross_entropy",
    title="Softmax and cross-entropy fused, backward.",
    task="""
    loss = (1/n) sum_i (log sum_j exp(x_ij) - x_i[t_i])

is the mean of -log softmax(x_i)[t_i] over the n targets that count. A target
of -100 doesn't count: its row has no part in the loss, and n is smaller. If
none counts, dx is 0.

Write dx for the logits x, from the slope of each of the two terms. The result
is shorter than softmax's own backward pass. dloss, the loss's gradient, is a
number, and not always 1.
""",
    read="docs/course/04-softmax-and-cross-entropy.md, npgpt/kernels/cross_entropy.py (after you tried)",
    signature="cross_entropy_backward(dloss, x, targets)",
    gives="dloss, a number; x, the logits (N, V); targets (N,) of whole numbers from 0 to V - 1, or -100 -> dx",
    outputs=("dx",),
    forward=ops.cross_entropy,
    cases=(
        Case("3 targets", {"x": values(3, 5), "targets": _TARGETS}),
        Case("2 targets and two of -100", {"x": values(4, 5), "targets": _SOME}),
        Case("logits from -1000 to 1000", {"x": 500 * values(3, 5), "targets": _TARGETS}, by_differences=False),
        Case("no target counts", {"x": values(2, 5), "targets": np.array([-100, -100])}, by_differences=False),
    ),
    mistakes=(
        Mistake(
            lambda dloss, x, t: _cross_entropy(dloss, x, t, subtract=0.0),
            "The loss is log(sum of exp(x)) - x[target]. What does the second term contribute, and where?",
        ),
        Mistake(
            lambda dloss, x, t: _cross_entropy(dloss, x, t, n=1),
            "The loss is a mean: is the loss of a batch twice as large twice as large? The 1/n is missing.",
        ),
        Mistake(lambda dloss, x, t: _cross_entropy(1.0, x, t), "Where is dloss? It multiplies everything."),
        Mistake(
            lambda dloss, x, t: _cross_entropy(dloss, x, t, n=x.size),
            "The mean is over the targets, and not over all elements of x: what is n?",
        ),
        Mistake(
            lambda dloss, x, t: _cross_entropy(dloss, x, t, n=len(t)),
            "The loss is a mean over which targets? Those of -100 are not among them.",
        ),
        Mistake(
            lambda dloss, x, t: _cross_entropy(dloss, x, t, ignored=1.0),
            "A row whose target is -100 has no part in the loss. What is its gradient?",
        ),
        Mistake(
            lambda dloss, x, t: _cross_entropy(dloss, x, np.where(t < 0, t % x.shape[1], t)),
            "A target of -100 is no index: it counted from the end, or fell somewhere. Such rows have no gradient.",
        ),
    ),
)

# Layer norm


def _mean(x):
    return x.mean(axis=-1, keepdims=True)


def _rows(x):
    return x.reshape(-1, x.shape[-1])


def _layernorm(dy, x, weight, bias, eps, mean=1.0, along=1.0, scale=True, ddof=0, outside=False, over=_mean):
    variance = x.var(axis=-1, keepdims=True, ddof=ddof)
    rstd = 1 / (np.sqrt(variance) + eps if outside else np.sqrt(variance + eps))
    xhat = (x - _mean(x)) * rstd
    dxhat = dy * weight
    dx = (rstd if scale else 1) * (dxhat - mean * over(dxhat) - along * xhat * over(dxhat * xhat))
    return dx, _rows(dy * xhat).sum(axis=0), _rows(dy).sum(axis=0)


def _layernorm_case(*shape, eps=1e-5):
    C = shape[-1]
    return {"x": values(*shape), "weight": values(C, seed=1), "bias": values(C, seed=2), "eps": eps}


LAYERNORM = Exercise(
    name="layernorm",
    title="Layer norm, backward.",
    task="""
    variance = mean of (x - mean)^2             in each row, over C elements
    rstd = 1 / sqrt(variance + eps)
    xhat = (x - mean) rstd
    y = xhat weight + bias

Write dx, dweight and dbias. Begin with dxhat. x changes xhat in three ways:
directly, through the mean, and through the variance. weight and bias are used
in each row.
""",
    read="docs/course/05-layer-norm.md, npgpt/kernels/layernorm.py (after you tried)",
    signature="layernorm_backward(dy, x, weight, bias, eps)",
    gives="dy, x (..., C); weight, bias (C,); eps, a number -> dx, dweight, dbias",
    outputs=("dx", "dweight", "dbias"),
    forward=ops.layernorm,
    cases=(
        Case("x (3, 5), eps = 0.1", _layernorm_case(3, 5, eps=0.1)),
        Case("x (2, 3, 4), eps = 1e-5", _layernorm_case(2, 3, 4)),
        Case("all of a row is equal", {**_layernorm_case(2, 4), "x": np.full((2, 4), 3.0)}, by_differences=False),
    ),
    mistakes=(
        Mistake(
            partial(_layernorm, mean=0.0),
            "A mean is missing. If all of a row grows by 1, what changes in y? So what must a row of dx add up to?",
        ),
        Mistake(
            partial(_layernorm, along=0.0),
            "The path through the variance is missing. If x - mean is stretched, y hardly changes: so dx has (but for "
            "eps) no part along xhat.",
        ),
        Mistake(
            partial(_layernorm, mean=0.0, along=0.0),
            "That is the direct path alone. x changes the mean and the variance of its row as well.",
        ),
        Mistake(
            partial(_layernorm, over=np.mean),
            "A row changes its own mean and variance only. So over which axis are the means of dx taken?",
        ),
        Mistake(
            lambda dy, x, weight, bias, eps: _layernorm(dy, x, np.ones_like(weight), bias, eps),
            "xhat is multiplied by weight on the way to y. So what is dxhat?",
        ),
        Mistake(partial(_layernorm, scale=False), "A factor is missing: xhat is (x - mean) times what?"),
        Mistake(
            lambda dy, x, weight, bias, eps: _layernorm(dy, x, weight, bias, 0.0),
            "eps is missing. What is 1 / sqrt(variance) in a row whose elements are all equal?",
        ),
        Mistake(
            partial(_layernorm, outside=True),
            "What is the slope of a square root at 0, and which eps keeps it finite? It is inside the root.",
        ),
        Mistake(
            partial(_layernorm, ddof=1),
            "Is this the variance of the row, or an estimate of a population's from a sample? Divide by C.",
        ),
        Mistake(
            lambda dy, x, *a: (None, dy * (x - _mean(x)) / np.sqrt(x.var(axis=-1, keepdims=True) + a[2]), dy),
            "weight and bias were used in every row: add up over the rows.",
        ),
        Mistake(
            lambda dy, x, *a: (None, _rows(dy * x).sum(axis=0), None),
            "weight is multiplied by xhat, and not by x.",
        ),
        Mistake(
            lambda *a: (_layernorm(*a)[0], *(d / _rows(a[0]).shape[0] for d in _layernorm(*a)[1:])),
            "That is the mean over the rows. Contributions add up.",
        ),
    ),
)

# Embedding


def _embedding(dy, ids, weight, add):
    dweight = np.zeros_like(weight)
    rows = dy.reshape(-1, weight.shape[1])
    add(dweight, ids.reshape(-1), rows)
    return dweight


def _add_once(dweight, ids, rows):
    dweight[ids] += rows


def _add_means(dweight, ids, rows):
    np.add.at(dweight, ids, rows)
    dweight /= np.maximum(1, np.bincount(ids, minlength=len(dweight)))[:, None]


EMBEDDING = Exercise(
    name="embedding",
    title="A look-up table, backward.",
    task="""
    y_n = weight[ids_n]                 a row of the table for each id

Write dweight, of the table's shape. A row of the table that no id names has
no part in y. A row that three ids name is in three rows of y.
""",
    read="npgpt/ops/embedding.py (after you tried)",
    signature="embedding_backward(dy, ids, weight)",
    gives="dy (..., C); ids (...) of whole numbers below V; weight (V, C) -> dweight",
    outputs=("dweight",),
    forward=ops.embedding,
    cases=(
        Case("each id once", {"ids": np.array([3, 0, 2]), "weight": values(5, 3)}),
        Case("ids that repeat", {"ids": np.array([1, 4, 4, 0, 4]), "weight": values(5, 3)}),
        Case("ids (2, 3)", {"ids": np.array([[1, 4, 4], [0, 1, 1]]), "weight": values(5, 3)}),
        Case("no ids", {"ids": np.zeros(0, np.int64), "weight": values(5, 3)}, by_differences=False),
    ),
    mistakes=(
        Mistake(
            partial(_embedding, add=_add_once),
            "A token occurs several times. How many rows of dy does its embedding receive? dweight[ids] += dy adds "
            "only one of them: see np.add.at.",
        ),
        Mistake(partial(_embedding, add=_add_means), "Contributions add up: that is their mean."),
        Mistake(
            lambda dy, ids, weight: dy,
            "dweight has a row for each token of the table, and not for each position. Add dy's rows to those of ids.",
        ),
        Mistake(
            lambda dy, ids, weight: weight + _embedding(dy, ids, weight, np.add.at),
            "dweight begins at zero, and not at weight.",
        ),
    ),
)
