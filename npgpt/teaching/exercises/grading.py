"""An answer graded: gradients beside central differences, other results beside the package's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.checking.central_differences import gradcheck
from npgpt.teaching.exercises.answers import Row, at, comparable, compared
from npgpt.teaching.exercises.exercise import Case, Exercise, NotAnAnswer
from npgpt.teaching.exercises.hints import hint, hint_for_exception
from npgpt.teaching.exercises.trial import ReturnLine, arguments_of, call, parameters
from npgpt.tensor import Tensor


@dataclass(frozen=True)
class Verdict:
    """What there is to say about an answer.

    case            the number, from 1, of the first case that is wrong, else of the last one
    arguments       by name, those of the first call
    rows            its outputs beside what is right, if they can be compared
    by_differences  what is right comes from central differences
    problem         why there are no rows, and ``line``: where, in the learner's file
    raised          the exception, if the problem is one
    """

    exercise: Exercise
    case: int
    arguments: dict[str, Any]
    rows: tuple[Row, ...] = ()
    by_differences: bool = False
    problem: str = ""
    line: int | None = None
    raised: BaseException | None = None
    hint: str = ""

    @property
    def solved(self) -> bool:
        """Whether all cases are right."""
        return not self.problem and all(row.ok for row in self.rows)


def grade(exercise: Exercise, function: Callable) -> Verdict:
    """Grade a function, case by case, up to the first one that is wrong.

    >>> from npgpt.teaching.exercises import EXERCISES
    >>> verdict = grade(EXERCISES["dropout"], lambda dy, x, keep, p: dy * keep * (1 - p))
    >>> verdict.solved, verdict.hint
    (False, 'Divide by 1 - p, the part that is kept: it scales up.')
    """
    for number, case in enumerate(exercise.cases, 1):
        verdict = _grade_case(exercise, number, case, function)
        if not verdict.solved:
            break
    return verdict


def _grade_case(exercise, number, case: Case, function) -> Verdict:
    attempt = _Attempt(exercise, number, case, ReturnLine(function))
    by_differences = bool(exercise.forward) and case.by_differences
    rows: tuple[Row, ...] = ()
    problem, raised, found = "", None, ""
    try:
        rows = attempt.beside_differences() if by_differences else attempt.beside_the_package()
        wrong = [row.output for row in rows if not row.ok]
        found = attempt.hint(wrong) if wrong else ""
    except NotAnAnswer as error:
        problem, found = str(error), attempt.hint(attempt.compared)
    except (Exception, SystemExit) as error:
        problem, raised = f"{type(error).__name__}: {error}", error
        found = hint_for_exception(exercise, attempt.arguments, error)
    named = dict(zip(parameters(exercise, case), attempt.arguments, strict=False))
    return Verdict(exercise, number, named, rows, by_differences, problem, attempt.function.line, raised, found)


class _Attempt:
    """One case: the arguments, what is right and what was given, as far as it got."""

    def __init__(self, exercise, number, case, function):
        self.exercise, self.number, self.case, self.function = exercise, number, case, function
        self.arguments, self.right, self.answer = [], {}, {}
        self.compared = exercise.outputs  # those that may be wrong, if the answer can't be compared

    def answer_to(self, arguments) -> dict:
        """What the function gives, made comparable with the package's answer."""
        self.arguments = arguments
        self.right = call(self.exercise, self.exercise.solution, arguments)
        self.answer = call(self.exercise, self.function, arguments)
        for name, right in self.right.items():
            self.compared = (name,)
            self.answer[name] = comparable(name, self.answer[name], right)
        return self.answer

    def beside_the_package(self) -> tuple[Row, ...]:
        """Each output beside the package's."""
        answer = self.answer_to(arguments_of(self.exercise, self.case))
        return tuple(compared(name, answer[name], right) for name, right in self.right.items())

    def beside_differences(self) -> tuple[Row, ...]:
        """The rows of ``gradcheck``, for the package's forward pass and this backward pass."""
        names = [name.removeprefix("d") for name in self.exercise.outputs]

        def f(*tensors):
            inputs = {name: tensor.data for name, tensor in zip(names, tensors, strict=True)}
            arguments = {**self.case.arguments, **inputs}

            def backward(dy, needs):
                given = [dy, *arguments.values()]
                given = [x.item() if isinstance(x, np.ndarray) and not x.ndim else x for x in given]
                return tuple(self.answer_to(given).values())

            return Tensor.from_op(self.exercise.forward_pass(arguments), tensors, backward)

        inputs = [np.array(self.case.arguments[name], np.float64) for name in names]
        found = gradcheck(f, inputs, names).inputs
        return tuple(Row(f"d{c.name}", at(f"d{c.name}", c.index), c.ok, c.by_hand, c.numerical) for c in found)

    def hint(self, wrong) -> str:
        passed = self.exercise.cases[: self.number - 1]
        return hint(self.exercise, self.arguments, self.answer, self.right, wrong, passed)
