"""The hint for a wrong answer, found by comparison.

Each exercise knows the usual mistakes as functions. If one of them gives what the learner's function gave for the same
arguments, its hint is the one that is needed.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from npgpt.teaching.exercises.answers import as_numbers, equal
from npgpt.teaching.exercises.exercise import Exercise
from npgpt.teaching.exercises.trial import call


def hint(
    exercise: Exercise, arguments: list, answer: dict[str, Any], right: dict[str, Any], wrong: Iterable[str]
) -> str:
    """The hint for the first of the ``wrong`` outputs that has one; "" if there is none."""
    outcomes = [(mistake, _outcome(exercise, mistake, arguments)) for mistake in exercise.mistakes]
    for name in wrong:
        if name not in answer or equal(answer[name], right[name]):
            continue
        for mistake, other in outcomes:
            if name in other and not equal(other[name], right[name]) and equal(other[name], answer[name]):
                return mistake.hint
        if found := _hint_for_any(name, answer[name], right[name]):
            return found
    return ""


def hint_for_exception(exercise: Exercise, arguments: list, raised: BaseException) -> str:
    """The hint of the mistake that raises the same."""
    for mistake in exercise.mistakes:
        try:
            with np.errstate(all="ignore"):
                call(exercise, mistake.wrong, arguments)
        except Exception as other:
            if (type(other), str(other)) == (type(raised), str(raised)):
                return mistake.hint
    return ""


def _outcome(exercise, mistake, arguments) -> dict[str, Any]:
    try:
        with np.errstate(all="ignore"):
            found = call(exercise, mistake.wrong, arguments)
        return {name: given for name, given in found.items() if given is not None}
    except Exception:  # it may fail where another mistake gives a result
        return {}


def _hint_for_any(name, given, right) -> str:
    """What can be said of any array: an axis too many, rows and columns, NaN, all signs, one factor."""
    x, y = as_numbers(given), as_numbers(right)
    if x is None or y is None or not x.size:
        return ""
    if x.ndim > y.ndim and x.shape[x.ndim - y.ndim :] == y.shape:
        return f"{name} still has the axes that its array was broadcast to: add up over them."
    if x.shape == y.shape[::-1] and y.ndim == 2 and np.allclose(x, y.T):
        return f"{name} is transposed."
    if x.shape != y.shape or not y.any() or not np.isfinite(y).all():
        return ""
    if not np.isfinite(x).all():
        return "NaN or infinity: is there a division by 0, the log of 0, or exp of something large?"
    if not x.any():
        return "All of it is 0."
    if np.allclose(x, -y):
        return "The sign is wrong, and nothing else."
    largest = np.unravel_index(np.argmax(np.abs(y)), y.shape)
    factor = x[largest] / y[largest]
    if y.size > 1 and np.allclose(x, factor * y):
        return f"Every element is {factor:.4g} times the right one: which factor is it that is missing, or too much?"
    return ""
