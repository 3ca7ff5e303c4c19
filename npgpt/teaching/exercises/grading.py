"""An answer graded: gradients beside central differences, other results beside the package's own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from npgpt.checking.central_differences import gradcheck
from npgpt.teaching.exercises.answers import Row, at, comparable, compared
from npgpt.teaching.exercises.exercise import Case, Exercise, NotAnAnswer
from npgpt.teaching.exercises.hints import hint, hint_for_exception
from npgpt.teaching.exercises.trial import ReturnLine, arguments_of, call
from npgpt.tensor import Tensor


@dataclass(frozen=True)
class Verdict:
    """What there is to say about an answer.

    case            the number, from 1, of the first case that is wrong, else of the last one
    rows            its outputs beside what is right, if they can be compared
    by_differences  what is right comes from central differences
    problem         why there are no rows, and ``line``: where, in the learner's file
    raised          the exception, if the problem is one
    """

    exercise: Exercise
    case: int
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
    function = ReturnLine(function)
    arguments = arguments_of(exercise, case)
    right = call(exercise, exercise.solution, arguments)
    answer, wrong = {}, exercise.outputs
    try:
        answer = call(exercise, function, arguments)
        for name in exercise.outputs:
            wrong = [name]
            answer[name] = comparable(name, answer[name], right[name])
        by_differences = bool(exercise.forward) and case.by_differences
        if by_differences:
            rows = _by_differences(exercise, case, function)
        else:
            rows = tuple(compared(name, answer[name], right[name]) for name in right)
    except NotAnAnswer as problem:
        hinted = hint(exercise, arguments, answer, right, wrong)
        return Verdict(exercise, number, problem=str(problem), line=function.line, hint=hinted)
    except (Exception, SystemExit) as raised:
        hinted = hint_for_exception(exercise, arguments, raised)
        return Verdict(exercise, number, problem=f"{type(raised).__name__}: {raised}", raised=raised, hint=hinted)
    wrong = [row.output for row in rows if not row.ok]
    hinted = hint(exercise, arguments, answer, right, wrong) if wrong else ""
    return Verdict(exercise, number, rows, by_differences, line=function.line, hint=hinted)


def _by_differences(exercise, case, function) -> tuple[Row, ...]:
    """The rows of ``gradcheck``, for the package's forward pass and the learner's backward pass."""
    names = [name.removeprefix("d") for name in exercise.outputs]

    def f(*tensors):
        inputs = {name: tensor.data for name, tensor in zip(names, tensors, strict=True)}
        arguments = {**case.arguments, **inputs}

        def backward(dy, needs):
            given = [x.item() if isinstance(x, np.ndarray) and not x.ndim else x for x in (dy, *arguments.values())]
            answer = call(exercise, function, given)
            return tuple(comparable(f"d{name}", answer[f"d{name}"], inputs[name]) for name in names)

        return Tensor.from_op(exercise.values(arguments), tensors, backward)

    inputs = [np.array(case.arguments[name], np.float64) for name in names]
    found = gradcheck(f, inputs, names).inputs
    return tuple(Row(f"d{c.name}", at(f"d{c.name}", c.index), c.ok, c.by_hand, c.numerical) for c in found)
