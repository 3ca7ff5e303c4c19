"""The backward passes of a block's operations, without attention."""

import math

import numpy as np

from npgpt import ops
from npgpt.kernels.dropout import keep_mask_numpy
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values

# Linear


def _linear(dx=None, dW=None, db=None):
    """A wrong backward pass of a linear layer: the gradients that are given, and None for those that it gets right."""

    def backward(dy, x, W, b):
        rows, dys = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        return tuple(f(dys, rows, W) if f else None for f in (dx, dW, db))

    return backward


_ROWS = "x has two axes in front, and both count rows. Reshape x and dy to (rows, columns) first."

LINEAR = Exercise(
    name="linear",
    title="A linear layer, backward.",
    task="""
    y_no = sum_i x_ni W_io + b_o        n counts the rows, i inputs, o outputs

dy has y's shape. Write dx, dW and db, each of the shape of its array. Ask of
each element: where is it used, and by what is it multiplied there? Then write
the sums as matrix products. x may have more axes than two: all but the last
one count rows.
""",
    read="docs/course/03-linear.md, npgpt/ops/linear.py (after you tried)",
    signature="linear_backward(dy, x, W, b)",
    gives="dy (..., O), x (..., I), W (I, O), b (O,) -> dx, dW, db",
    outputs=("dx", "dW", "db"),
    forward=ops.linear,
    cases=(
        Case("as many inputs as outputs", {"x": values(4, 3), "W": values(3, 3), "b": values(3)}),
        Case("2 inputs, 3 outputs", {"x": values(4, 2), "W": values(2, 3), "b": values(3)}),
        Case("one row", {"x": values(1, 2), "W": values(2, 3), "b": values(3)}),
        Case("x of two texts: (2, 3, 4)", {"x": values(2, 3, 4), "W": values(4, 2), "b": values(2)}),
    ),
    mistakes=(
        Mistake(
            _linear(db=lambda dy, x, W: dy[0]), "The bias is added to every row. Which rows of dy does it receive?"
        ),
        Mistake(
            _linear(db=lambda dy, x, W: dy.mean(axis=0), dW=lambda dy, x, W: x.T @ dy / len(x)),
            "That is the mean over the rows. Contributions add up: is there a 1/N in y's formula?",
        ),
        Mistake(
            _linear(db=lambda dy, x, W: dy),
            "b was used in every row: add up over the rows that it was broadcast to.",
        ),
        Mistake(
            _linear(db=lambda dy, x, W: dy.sum(axis=1)),
            "Over which axis is the bias the same? The sum runs over the rows n, and not over the outputs o.",
        ),
        Mistake(
            _linear(dx=lambda dy, x, W: dy @ W, dW=lambda dy, x, W: dy.T @ x),
            "dx_ni = sum_o dy_no W_io: the sum runs over W's columns, so which of the two must be transposed? And "
            "dW_io = sum_n dy_no x_ni has i first.",
        ),
        Mistake(lambda dy, x, W, b: (dy @ W.T, x.swapaxes(-1, -2) @ dy, dy.sum(axis=0)), _ROWS),
        Mistake(lambda dy, x, W, b: (dy @ W.T, x.T @ dy, dy.sum(axis=0)), _ROWS),
    ),
)

# GELU


def _gelu(dy, x, cubic=3 * 0.044715, product_rule=1.0, outer=2.0):
    root = math.sqrt(2 / math.pi)
    s = (1 + np.tanh(root * (x + 0.044715 * x**3))) / 2
    return dy * (s + product_rule * x * outer * s * (1 - s) * root * (1 + cubic * x**2))


GELU = Exercise(
    name="gelu",
    title="GPT-2's GELU, backward.",
    task="""
    u = sqrt(2 / pi) (x + 0.044715 x^3)
    s = (1 + tanh u) / 2                        between 0 and 1
    y = x s                                     for each element by itself

Write dx. y is a product, and both of its factors contain x. The slope of
tanh u is 1 - tanh(u)^2.
""",
    read="npgpt/ops/gelu.py (after you tried)",
    signature="gelu_backward(dy, x)",
    gives="dy, x, arrays of one shape -> dx",
    outputs=("dx",),
    forward=ops.gelu_tanh,
    cases=(
        Case("x (3, 4)", {"x": values(3, 4)}),
        Case("from -3 to 3", {"x": np.linspace(-3, 3, 7)}),
        Case("x is 0, -20 or 20: the slopes are 1/2, 0 and 1", {"x": np.array([0.0, -20.0, 20.0])}, False),
    ),
    mistakes=(
        Mistake(lambda dy, x: _gelu(dy, x, cubic=0.044715), "What is the derivative of x + c x^3? A 3 is missing."),
        Mistake(
            lambda dy, x: _gelu(dy, x, product_rule=0.0),
            "That is s alone. s contains x, too: what is the rule for the slope of a product?",
        ),
        Mistake(
            lambda dy, x: _gelu(dy, x, outer=4.0),
            "s is (1 + tanh u) / 2: what became of the / 2 in its slope?",
        ),
        Mistake(lambda dy, x: _gelu(1.0, x), "That is the slope of y. Where is dy?"),
        Mistake(
            lambda dy, x: _gelu(dy, x, outer=2 / math.sqrt(2 / math.pi)),
            "u has a factor in front, sqrt(2 / pi). Is it in the slope of u?",
        ),
    ),
)

# Softmax


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _row_sum(x):
    return x.sum(axis=-1, keepdims=True)


def _softmax_without_maximum(dy, x):
    with np.errstate(all="ignore"):
        y = np.exp(x) / _row_sum(np.exp(x))
        return y * (dy - _row_sum(dy * y))


SOFTMAX = Exercise(
    name="softmax",
    title="Softmax, backward.",
    task="""
    y_j = exp(x_j) / sum_k exp(x_k)             in each row: the last axis

Write dx. Every y_j of a row depends on every x_k, so use

    dx_k = sum_j dy_j ∂y_j/∂x_k         the chain rule

where ∂y_j/∂x_k, the slope of y_j for x_k, comes from the quotient rule. Put it
in, until no matrix is left. exp(1000) is infinite: how do you compute y?
""",
    read="docs/course/04-softmax-and-cross-entropy.md, npgpt/kernels/softmax.py (after you tried)",
    signature="softmax_backward(dy, x)",
    gives="dy, x (..., N) -> dx",
    outputs=("dx",),
    forward=ops.softmax,
    cases=(
        Case("x (3, 4)", {"x": values(3, 4)}),
        Case("x (2, 3, 4)", {"x": values(2, 3, 4)}),
        Case("a row of one", {"x": values(3, 1)}, by_differences=False),
        Case(
            "x around 1000, and around 0",
            {"x": np.array([[999.0, 1000.0, 1002.0], [0.0, 1.0, 3.0]])},
            by_differences=False,
        ),
        Case("a masked score: x is -inf", {"x": np.array([[0.5, -np.inf, 1.5]])}, by_differences=False),
    ),
    mistakes=(
        Mistake(
            lambda dy, x: _softmax(x) * dy,
            "The row's sum is missing. A row of y always adds up to 1. What must a row of dx add up to?",
        ),
        Mistake(
            lambda dy, x: _softmax(x) * (1 - _softmax(x)) * dy,
            "That is the slope of y_k for x_k alone. x_k moves all the other y_j as well, through the sum below.",
        ),
        Mistake(
            lambda dy, x: _softmax(x) * (dy - (dy * _softmax(x)).sum()),
            "Each row is a softmax of its own: over which axis does the sum of dy y run?",
        ),
        Mistake(
            lambda dy, x: _softmax(x) * (dy - (dy * _softmax(x)).sum(axis=0)),
            "Each row is a softmax of its own: over which axis does the sum of dy y run?",
        ),
        Mistake(
            lambda dy, x: _softmax(x) * (dy - dy.sum(axis=-1, keepdims=True)),
            "The sum is of dy_j y_j, and not of dy_j: each is weighted by its probability.",
        ),
        Mistake(
            lambda dy, x: _softmax(x) * (dy - (dy * _softmax(x)).mean(axis=-1, keepdims=True)),
            "That is the mean of dy y over the row. The chain rule adds up: no 1/N.",
        ),
        Mistake(
            lambda dy, x: _softmax(x) * (dy + _row_sum(dy * _softmax(x))),
            "Look at the sign before the row's sum: if x_k grows, do the other probabilities grow?",
        ),
        Mistake(
            _softmax_without_maximum,
            "What is exp(1000)? Subtract the row's largest x from all of the row first: y stays the same.",
        ),
    ),
)

# Dropout

_SEED = 3  # of the mask in all cases
_X = values(4, 5)


def _keep(p):
    return keep_mask_numpy(_X.shape, p, _SEED)


DROPOUT = Exercise(
    name="dropout",
    title="Dropout, backward.",
    task="""
    y_i = x_i keep_i / (1 - p)          keep_i is False with probability p

keep is given, the same one as in the forward pass. Write dx.
""",
    read="npgpt/ops/dropout.py (after you tried)",
    signature="dropout_backward(dy, x, keep, p)",
    gives="dy, x, keep, arrays of one shape (keep of bool); p, a number -> dx",
    outputs=("dx",),
    forward=lambda x, keep, p: ops.dropout(x, p, _SEED),
    cases=(
        Case("p = 0.4", {"x": _X, "keep": _keep(0.4), "p": 0.4}),
        Case("p = 0.1", {"x": _X, "keep": _keep(0.1), "p": 0.1}),
        Case("p = 0: nothing is dropped", {"x": _X, "keep": _keep(0.0), "p": 0.0}),
    ),
    mistakes=(
        Mistake(
            lambda dy, x, keep, p: dy * keep,
            "A part p of the elements is dropped in training, none afterwards: how do the sums stay the same? y scales "
            "the others up, and the same factor is in its slope.",
        ),
        Mistake(lambda dy, x, keep, p: dy * keep * (1 - p), "Divide by 1 - p, the part that is kept: it scales up."),
        Mistake(lambda dy, x, keep, p: dy * keep / max(p, 1e-9), "p is the part that is dropped. How much is kept?"),
        Mistake(lambda dy, x, keep, p: dy / (1 - p), "What is the slope of y_i where it is dropped, and always 0?"),
        Mistake(
            lambda dy, x, keep, p: dy * x * keep / (1 - p),
            "y_i is x_i times a factor: its slope for x_i is the factor alone.",
        ),
        Mistake(lambda dy, x, keep, p: dy * ~keep / (1 - p), "keep is True where the element stays."),
    ),
)
