"""A function called as in a case, with arguments that it can't change."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.teaching.exercises.answers import described
from npgpt.teaching.exercises.exercise import Case, Exercise, NotAnAnswer
from npgpt.teaching.exercises.values import values


def arguments_of(exercise: Exercise, case: Case) -> list:
    """Those of the function, with dy in front if it is a backward pass."""
    given = list(case.arguments.values())
    if exercise.forward:
        dy = values(*exercise.forward_pass(case.arguments).shape, seed=7)
        given = [dy if dy.ndim else float(dy), *given]
    return given


def call(exercise: Exercise, function: Callable, arguments: list) -> dict[str, Any]:
    """Call the function with copies of the arguments -> {output: what it gave}. Arrays are read-only for it.

    Raises NotAnAnswer if it gives nothing, not as many things as it should, or changes a list or dict.
    """
    given = [_protected(x) for x in arguments]
    answer = exercise.call(function, given)
    if not _same(given, arguments):
        raise NotAnAnswer(f"{exercise.function_name} changes one of its arguments: work on a copy")
    return dict(zip(exercise.outputs, _unpacked(exercise, answer), strict=True))


def _protected(x):
    x = copy.deepcopy(x)
    for array in x if isinstance(x, list) else [x]:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False  # so that the very line which writes to it fails
    return x


def parameters(exercise: Exercise, case: Case) -> list[str]:
    """The names of the arguments."""
    first = [exercise.signature.partition("(")[2].partition(",")[0]] if exercise.forward else []
    return [*first, *case.arguments]


def _same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return True  # it is read-only
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _unpacked(exercise, answer) -> list:
    names = ", ".join(exercise.outputs)
    if answer is None:
        raise NotAnAnswer(f"{exercise.function_name} returns None: is its body written, and does it end with return?")
    if len(exercise.outputs) == 1:
        return [answer]
    if not isinstance(answer, tuple | list):
        raise NotAnAnswer(f"{exercise.function_name} must return {names}, and gives one thing, {described(answer)}")
    if len(answer) != len(exercise.outputs):
        raise NotAnAnswer(f"{exercise.function_name} must return {names}, and gives {len(answer)} things")
    return list(answer)


class ReturnLine:
    """A function that remembers the line in which it returned last, or else the one in which it is defined."""

    def __init__(self, function: Callable):
        self._function = function
        self._code = getattr(function, "__code__", None)
        self.line = self._code.co_firstlineno if self._code else None

    def __call__(self, *arguments: Any) -> Any:
        def note(frame, event, value):
            if event == "return" and frame.f_code is self._code:
                self.line = frame.f_lineno

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            return self._function(*arguments)
        finally:
            sys.setprofile(before)
