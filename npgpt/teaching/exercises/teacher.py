"""What is said about an answer: which element, both values, their ratio, and a hint. At most 79 columns wide."""

import textwrap
from typing import Any

import numpy as np

from npgpt.teaching.exercises.answers import Row
from npgpt.teaching.exercises.grading import Verdict

WIDTH = 79


def report(verdict: Verdict, source: list[str]) -> str:
    """The answer to the learner, whose file has the lines ``source``."""
    exercise, case = verdict.exercise, verdict.exercise.cases[verdict.case - 1]
    if verdict.solved:
        return f"{exercise.name} is solved: all {len(exercise.cases)} cases are right.\n"
    lines = [f"{exercise.name}, case {verdict.case} of {len(exercise.cases)}: {case.label}", *_arguments(case), ""]
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


def _arguments(case) -> list[str]:
    """Small arguments by their value, others by their shape."""
    told = [f"{name} {_brief(x)}" for name, x in case.arguments.items()]
    return textwrap.wrap(f"({', '.join(told)})", WIDTH)


def _brief(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return str(x.tolist() if x.dtype.kind == "i" and x.size <= 10 else x.shape)
    if isinstance(x, list) and any(isinstance(element, np.ndarray) for element in x):
        return f"of {', '.join(map(_brief, x[:3]))}{' ...' if len(x) > 3 else ''}"
    text = repr(x)
    return text if len(text) < 200 else f"of {len(x)}"


def _table(verdict) -> list[str]:
    if any(not isinstance(row.right, float | int | np.number) for row in verdict.rows):
        return [line for row in verdict.rows for line in _two_lines(row)]
    titles = ("by hand", "numerically") if verdict.by_differences else ("yours", "right")
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
