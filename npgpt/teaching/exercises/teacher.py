"""What is said about an answer: which element, both values, their ratio, and a hint. At most 79 columns wide."""

import textwrap

import numpy as np

from npgpt.teaching.exercises.answers import Row
from npgpt.teaching.exercises.grading import Verdict

WIDTH = 79


def report(verdict: Verdict, source: list[str]) -> str:
    """The answer to the learner, whose file has the lines ``source``."""
    exercise, case = verdict.exercise, verdict.exercise.cases[verdict.case - 1]
    if verdict.solved:
        solved = f"{exercise.name} is solved: all {len(exercise.cases)} cases are right."
        return "\n".join([solved, *_paragraph(f"The package's own is in {exercise.solution_is_in}."), ""])
    lines = [
        f"{exercise.name}, case {verdict.case} of {len(exercise.cases)}: {case.label}",
        *_arguments(verdict.arguments),
        "",
    ]
    if verdict.problem:
        lines += _paragraph(verdict.problem)
        if verdict.line:
            lines += shown_line(source, verdict.line)
    else:
        lines += _table(verdict)
    if verdict.hint:
        lines += ["", *_paragraph(f"Hint: {verdict.hint}")]
    return "\n".join(line.rstrip() for line in [*lines, "", f"{exercise.name} is not solved yet."]) + "\n"


def shown_line(source: list[str], number: int) -> list[str]:
    """A line of the learner's file, with its number."""
    text = f"  line {number}: {source[number - 1].strip() if 0 < number <= len(source) else ''}"
    return [text if len(text) <= WIDTH else text[: WIDTH - 4] + " ..."]


def _paragraph(text) -> list[str]:
    return [line for part in text.splitlines() for line in textwrap.wrap(part, WIDTH)]


def _arguments(arguments) -> list[str]:
    """Small ones with their values, which can be copied and tried out; of large ones the shape."""
    return [line for name, x in arguments.items() for line in _argument(name, x)]


def _argument(name, x) -> list[str]:
    if isinstance(x, list) and any(isinstance(element, np.ndarray) for element in x):
        return [line for i, element in enumerate(x) for line in _argument(f"{name}[{i}]", element)]
    if not isinstance(x, np.ndarray):
        text = f"{x:.6g}" if isinstance(x, float) else repr(x) if len(repr(x)) < 300 else f"{len(x)} entries"
        return textwrap.wrap(f"{name} = {text}", WIDTH, subsequent_indent="    ")
    if x.size > 20:
        return [f"{name}, an array {x.shape}"]
    text = np.array2string(np.asarray(x), precision=4, separator=", ", max_line_width=WIDTH - len(name) - 3)
    return textwrap.indent(f"{name} = {text}", " " * (len(name) + 3)).strip().replace("\n\n", "\n").splitlines()


def _table(verdict) -> list[str]:
    if any(not isinstance(row.right, float | int | np.number) for row in verdict.rows):
        return [line for row in verdict.rows for line in _two_lines(row)]
    titles = ("yours", "numerically") if verdict.by_differences else ("yours", "right")
    width = max(8, *(len(row.place) for row in verdict.rows))
    lines = [f"       {'':{width}} {titles[0]:>14} {titles[1]:>14} {'ratio':>10}"]
    for row in verdict.rows:
        ratio = _ratio(row.yours, row.right)
        lines.append(f"{_mark(row)} {row.place:{width}} {_number(row.yours):>14} {_number(row.right):>14} {ratio:>10}")
    return lines


def _two_lines(row: Row) -> list[str]:
    told = (f"{_mark(row)} yours  {row.yours}", f"       right  {row.right}")
    return [line for text in told for line in textwrap.wrap(text, WIDTH, subsequent_indent=" " * 14)]


def _mark(row) -> str:
    return "ok    " if row.ok else "WRONG "


def _number(x) -> str:
    return "none" if x is None else f"{x:.6g}"


def _ratio(yours, right) -> str:
    if yours is None or not np.isfinite([yours, right]).all() or abs(right) < 1e-9:
        return "-"
    return f"{yours / right:.4g}"
