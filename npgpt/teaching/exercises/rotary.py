"""Rotary positions, backward."""

import numpy as np

from npgpt import ops
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values


def _turn(x, sign=1.0, first=0, neighbours=False, exponents=0):
    T, D = x.shape
    angles = np.arange(first, first + T)[:, None] * 10000.0 ** (-(np.arange(0, D, 2) + exponents) / D)
    cos, sin = np.cos(angles), sign * np.sin(angles)
    y = np.empty_like(x)
    a, b = (slice(0, None, 2), slice(1, None, 2)) if neighbours else (slice(0, D // 2), slice(D // 2, None))
    y[:, a] = x[:, a] * cos - x[:, b] * sin
    y[:, b] = x[:, a] * sin + x[:, b] * cos
    return y


def _package_rotary(x):
    """x stands where the queries are, beside keys and values of zero."""
    T, D = x.shape
    place = np.eye(3 * D)[:D]
    return (ops.rotary((x @ place).reshape(1, T, 3 * D), n_head=1).reshape(T, 3 * D)) @ place.T


ROTARY = Exercise(
    name="rotary",
    title="Rotary positions, backward.",
    task="""
Row i of x is the query (or key) of position i = 0, 1, 2 ... Its elements are
taken in pairs: j and j + D/2, for j from 0 to D/2 - 1. Each pair is turned by
an angle t:

    t = i / 10000^(2j / D)
    y_j       = x_j cos t - x_{j + D/2} sin t
    y_{j+D/2} = x_j sin t + x_{j + D/2} cos t

Write dx. Each element of x is in two elements of y.
""",
    read="npgpt/ops/rotary.py (after you tried)",
    signature="rotary_backward(dy, x)",
    gives="dy, x (T, D) with an even D -> dx",
    outputs=("dx",),
    forward=_package_rotary,
    cases=(
        Case("4 positions, D = 6", {"x": values(4, 6)}),
        Case("one position, whose angle is 0", {"x": values(1, 4)}),
        Case("D = 2: one pair", {"x": values(5, 2)}),
    ),
    mistakes=(
        Mistake(
            lambda dy, x: _turn(dy),
            "You turn dy the same way. Which rotation undoes a rotation by an angle? Look at the sign of sin t.",
        ),
        Mistake(
            lambda dy, x: _turn(dy, -1.0, neighbours=True),
            "Which elements are a pair: 0 and 1, or 0 and D/2?",
        ),
        Mistake(lambda dy, x: _turn(dy, -1.0, first=1), "The first position is 0, and not 1."),
        Mistake(
            lambda dy, x: _turn(dy, -1.0, exponents=np.arange(0, x.shape[1], 2)),
            "The exponent is 2j / D, where j is the number of the pair. Check it for the second pair.",
        ),
        Mistake(lambda dy, x: dy, "That is dy. y is x turned."),
    ),
)
