"""metrics.csv: the numbers of metrics.jsonl for spreadsheets, a row for each step at which something was measured."""

from collections.abc import Iterator

import numpy as np

from npgpt.reporting.record import Record

ROWS = 4096  # at a time


def table(record: Record) -> Iterator[str]:
    """The lines of the table. A cell is empty where nothing was measured; of lines with one step the last one counts.

    Layers have columns such as gradient.h.0, weight.h.0, activation.h.0.mlp. Texts are not in it.
    """
    parts = [("", record.train), ("", record.evals)]
    parts += [(f"{name}.", getattr(record, name)) for name in ("gradient", "weight", "activation")]
    steps = np.unique(np.concatenate([part["step"] for _, part in parts]))
    columns: dict[str, np.ndarray] = {}
    for prefix, part in parts:
        rows = np.searchsorted(steps, part["step"])
        for name in part:
            if name != "step":
                column = columns.setdefault(_named(prefix + name), np.full(len(steps), np.nan))
                known = ~np.isnan(part[name])
                column[rows[known]] = part[name][known]
    yield ",".join(["step", *columns]) + "\n"
    for begin in range(0, len(steps), ROWS):
        some = slice(begin, begin + ROWS)
        for row in zip(*(column[some].tolist() for column in (steps, *columns.values())), strict=True):
            yield ",".join(map(_shown, row)) + "\n"


def _shown(value):
    if value != value:  # NaN
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _named(name):
    """A name that no spreadsheet takes for a formula or for two cells."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip("-")
