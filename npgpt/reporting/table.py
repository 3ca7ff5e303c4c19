"""metrics.csv: the numbers of metrics.jsonl for spreadsheets, a row for each step at which something was measured."""

from collections.abc import Iterator

import numpy as np

from npgpt.reporting.record import Columns, Record

CELLS = 2**18  # at a time


def table(record: Record) -> Iterator[str]:
    """The lines of the table. A cell is empty where nothing was measured; of lines with one step the last one counts.

    Layers have columns such as gradient.h.0, weight.h.0, activation.h.0.mlp. Texts are not in it.
    """
    parts = [("", record.train), ("", record.evals)]
    parts += [(f"{name}.", getattr(record, name)) for name in ("gradient", "weight", "activation")]
    steps = np.unique(np.concatenate([part["step"] for _, part in parts]))
    columns: dict[str, list[tuple[np.ndarray, Columns, str]]] = {}  # of each: where its rows are, and its values
    for prefix, part in parts:
        rows = np.searchsorted(steps, part["step"])
        for name in part:
            if name != "step":
                columns.setdefault(_named(prefix + name), []).append((rows, part, name))
    yield ",".join(["step", *columns]) + "\n"
    count = max(1, CELLS // (1 + len(columns)))
    for begin in range(0, len(steps), count):
        some = steps[begin : begin + count]
        cells = (_cells(column, begin, len(some)) for column in columns.values())
        for row in zip(map(_shown, some.tolist()), *cells, strict=True):
            yield ",".join(row) + "\n"


def _cells(column, begin, count):
    """A column's cells in the rows from ``begin`` on."""
    cells = [""] * count
    for rows, part, name in column:
        first, end = np.searchsorted(rows, (begin, begin + count))
        values = part.part(name, first, end)
        known = ~np.isnan(values)
        for row, value in zip((rows[first:end][known] - begin).tolist(), values[known].tolist(), strict=True):
            cells[row] = _shown(value)
    return cells


def _shown(value):
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _named(name):
    """A name that no spreadsheet takes for a formula or for two cells."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip("-")
