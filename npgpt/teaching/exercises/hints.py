"""The hint for a wrong answer, found by comparison.

Each exercise knows the usual mistakes as functions. If one of them gives what the learner's function gave for the same
arguments, its hint is the one that is needed.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from npgpt.teaching.exercises.answers import as_numbers, equal
from npgpt.teaching.exercises.exercise import Case, Exercise
from npgpt.teaching.exercises.trial import arguments_of, call


def hint(
    exercise: Exercise, arguments: list, answer: dict[str, Any], right: dict[str, Any], wrong: Iterable[str],
    passed: tuple[Case, ...] = (),
) -> str:  # fmt: skip
    """The hint for the first of the ``wrong`` outputs that has one; "" if there is none.

    A mistake that shows in a case that the answer has ``passed`` isn't the one that was made.
    """
    outcomes = [(mistake, _outcome(exercise, mistake, arguments)) for mistake in exercise.mistakes]
    for name in wrong:
        if name not in answer or equal(answer[name], right[name]):
            continue
        for mistake, other in outcomes:
            is_it = name in other and not equal(other[name], right[name]) and equal(other[name], answer[name])
            if is_it and not any(_shows(exercise, mistake, case, name) for case in passed):
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


def _shows(exercise, mistake, case, name) -> bool:
    arguments = arguments_of(exercise, case)
    found = _outcome(exercise, mistake, arguments)
    return name in found and not equal(found[name], call(exercise, exercise.solution, arguments)[name])


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
        return "NaN or infinity: a division by 0, 0 times infinity, the log of 0, or exp of something large?"
    if not x.any():
        return "All of it is 0."
    if np.allclose(x, -y):
        return "The sign is wrong, and nothing else."
    if np.allclose(x, y, rtol=1e-5, atol=0):
        return "Right to about 7 digits. Is something float32? Compute in float64."
    largest = np.unravel_index(np.argmax(np.abs(y)), y.shape)
    factor = x[largest] / y[largest]
    if y.size > 1 and np.allclose(x, factor * y):
        return f"Every element is {factor:.4g} times the right one: which factor is it that is missing, or too much?"
    return ""
