"""Results for people, as rows of a table, and for programs, as what JSON holds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from npgpt.scoring.statistics import Estimate

_FILE = 27  # the width of the first column; all five, with a space between, have 79


@dataclass(frozen=True)
class Result:
    """What was measured on one file.

    figures     a dataclass of Estimates and whole numbers: Perplexity, LastWords or MultipleChoice
    against     a Divergence from the model named ``reference``, or None
    """

    file: str
    task: str
    figures: Any
    against: Any = None
    reference: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it. Infinity, which it does not have, becomes None."""
        values = {"file": self.file, "task": self.task, **_values(self.figures)}
        if self.against is not None:
            values["against"] = {"model": self.reference, **_values(self.against)}
        return values


def heading() -> str:
    """The table's first line; the others are ``rows`` of one result after another. None has more than 79 characters."""
    return _line("file", "task", "figure", "value", "std. error")


def rows(result: Result) -> list[str]:
    """A line for each figure.

    >>> from npgpt.scoring.last_words import LastWords
    >>> half, nats = Estimate(0.5, 0.5), Estimate(2.0, 0.25)
    >>> print(heading(), *rows(Result("words.jsonl", "lambada", LastWords(half, nats.exp(), nats, 2))), sep="\\n")
    file                        task       figure                value   std. error
    words.jsonl                 lambada    accuracy            0.50000         0.50
                                           perplexity           7.3891          1.8
                                           nats per word        2.0000         0.25
                                           examples                  2
    """
    lines = [*_lines([result.file], result.task, result.figures)]
    if result.against is not None:
        lines += _lines(["against", result.reference], "", result.against)
    return lines


def shortened(text: str, width: int) -> str:
    """A text, or its end if it is longer than ``width``; what can't be printed is escaped.

    >>> shortened("/data/tiny-shakespeare.txt", 12)
    '...peare.txt'
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= width else "..." + text[len(text) - width + 3 :]


def number(value: float, digits: int = 5) -> str:
    """A number in so many significant digits, or more before the decimal point.

    >>> number(0.0123456), number(12.3), number(50257.3), number(1.5e-9), number(1e300)
    ('0.012346', '12.300', '50,257', '1.5000e-09', '1.0000e+300')
    """
    if 1 <= abs(value) < 1e9:
        return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:#.{digits}g}"


def _lines(labels: list[str], task: str, figures: Any) -> Iterator[str]:
    """The figures' lines; the labels stand in the first column, one below the other."""
    for i, (name, value) in enumerate(vars(figures).items()):
        label = shortened(labels[i], _FILE) if i < len(labels) else ""
        shown, error = (f"{value:,}", None) if isinstance(value, int) else (number(value.value), value.error)
        spread = "" if error is None else number(error, 2)
        yield _line(label, "" if i else task, name.replace("_", " "), shown, spread)


def _line(file, task, figure, value, error):
    return f"{file:<{_FILE}} {task:<10} {figure:<15} {value:>11} {error:>12}".rstrip()


def _values(figures: Any) -> dict[str, Any]:
    return {f.name: _value(getattr(figures, f.name)) for f in fields(figures)}


def _value(value: int | Estimate) -> Any:
    if isinstance(value, int):
        return value
    parts = {"value": value.value, "standard_error": value.error}
    return {name: x if x is not None and math.isfinite(x) else None for name, x in parts.items()}
