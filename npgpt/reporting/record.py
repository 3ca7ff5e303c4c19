"""What a run has written, read again. It may be a stranger's: lines that are none of ours are skipped and counted."""

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.checkpoints import runs
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, DataError
from npgpt.shell import name_of

MAX_LINE = 2**20  # bytes
MAX_COLUMNS = 400  # of one kind: a layer has two of gradients and weights, and three of activations
MAX_NUMBERS = 2**25  # of all kinds, 256 MB: 800,000 lines about steps of a model with 12 layers, 40 numbers each
MAX_TEXT = 4000  # characters of a sample
MAX_PIECES = 1024
MAX_TEXTS = 24  # samples, and passages, spread over the run
MAX_FACTS = 50  # about a process, and about its machine
_MAX_STEP = 2**53


class Columns:
    """Columns of numbers, which grow row by row. A number that a row doesn't have, or that isn't finite, is NaN.

    >>> columns = Columns()
    >>> columns.add({"step": 0, "loss": 4.5})
    >>> columns.add({"step": 1, "norm": 2})
    >>> columns["loss"], columns["norm"], columns["speed"]
    (array([4.5, nan]), array([nan,  2.]), array([nan, nan]))
    """

    def __init__(self):
        self._columns: dict[str, array] = {}
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self._columns[name]) if name in self._columns else np.full(self._rows, np.nan)

    def part(self, name: str, first: int, end: int) -> np.ndarray:
        """The rows ``first`` to ``end`` of a column that is there."""
        return np.array(self._columns[name][first:end])

    @property
    def numbers(self) -> int:
        """How many numbers are kept, NaN among them."""
        return len(self._columns) * self._rows

    def add(self, row: dict[str, Any], most: int = MAX_NUMBERS) -> None:
        """Add a row. What is not a number is left out. Raises DataError if that makes more numbers than ``most``."""
        new = [name for name, value in row.items() if name not in self._columns and _is_number(value)]
        new = [name for name in new if len(name) <= 100][: MAX_COLUMNS - len(self._columns)]
        if (len(self._columns) + len(new)) * (self._rows + 1) > most:
            raise DataError(f"more than {MAX_NUMBERS:,} numbers, so it can't be shown")
        for name in new:
            self._columns[name] = array("d", [math.nan]) * self._rows
        for name, value in row.items():
            if name in self._columns:
                self._columns[name].append(float(value) if _is_number(value) else math.nan)
        self._rows += 1
        for column in self._columns.values():
            if len(column) < self._rows:
                column.append(math.nan)

    def sort(self) -> None:
        """Put the rows in the order of their steps, those of one step in their own."""
        order = np.argsort(self["step"], kind="stable")
        for name in self._columns:
            self._columns[name] = array("d", self[name][order].tobytes())


class Spread:
    """Items of a list that may be long: the first, the last, and others evenly between, ``MAX_TEXTS`` at most."""

    def __init__(self):
        self._kept: list = []
        self._last: Any = None
        self._every, self._seen = 1, 0

    def add(self, item: Any) -> None:
        if self._seen % self._every == 0:
            self._kept.append(item)
        self._seen += 1
        self._last = item
        if len(self._kept) >= 2 * MAX_TEXTS:
            self._kept, self._every = self._kept[::2], self._every * 2

    def items(self) -> list:
        kept = self._kept if not self._kept or self._kept[-1] is self._last else [*self._kept, self._last]
        most = min(len(kept), MAX_TEXTS)
        return [kept[round(i * (len(kept) - 1) / max(most - 1, 1))] for i in range(most)]


@dataclass
class Record:
    """What a run has written.

    train, evals            a row for each line: step, loss, lr, ...; step, train_loss, val_loss, ...
    gradient, weight        a row for each line: step, and a size for each layer
    activation              the same for each place in the residual stream
    samples, passages       lines as they are
    processes               of each process that trained it: step, command, date, machine
    skipped                 lines that could not be read
    """

    path: Path
    model: GPTConfig
    training: dict[str, Any]
    plan: dict[str, Any]
    train: Columns = field(default_factory=Columns)
    evals: Columns = field(default_factory=Columns)
    gradient: Columns = field(default_factory=Columns)
    weight: Columns = field(default_factory=Columns)
    activation: Columns = field(default_factory=Columns)
    samples: Spread = field(default_factory=Spread)
    passages: Spread = field(default_factory=Spread)
    processes: Spread = field(default_factory=Spread)
    skipped: int = 0

    @property
    def name(self) -> str:
        return name_of(self.path)

    def add(self, line: dict[str, Any]) -> bool:
        """Take what a line of metrics.jsonl says; False if it says nothing that is known."""
        kind, step = line.get("kind"), line.get("step")
        if type(step) is not int or not 0 <= step < _MAX_STEP:
            return False
        numbers = {name: value for name, value in line.items() if name != "kind"}
        if kind == "train":
            self._add(self.train, numbers)
        elif kind == "eval":
            self._add(self.evals, numbers)
        elif kind == "layers" and all(isinstance(line.get(name), dict) for name in ("gradient", "weight")):
            self._add(self.gradient, {"step": step, **line["gradient"]})
            self._add(self.weight, {"step": step, **line["weight"]})
        elif kind == "passage" and _is_passage(line):
            self._add(self.activation, {"step": step, **line["activation"]})
            self.passages.add({name: line[name] for name in ("step", "pieces", "losses")})
        elif kind == "sample" and isinstance(line.get("text"), str):
            self.samples.add({"step": step, "text": line["text"][:MAX_TEXT]})
        elif kind == "process" and isinstance(line.get("machine"), dict):
            facts = [(name, value) for name, value in line.items() if name not in ("kind", "machine")]
            shown = {name[:100]: str(value)[:MAX_TEXT] for name, value in facts[:MAX_FACTS]}
            machine = {name[:100]: str(value)[:300] for name, value in [*line["machine"].items()][:MAX_FACTS]}
            self.processes.add({**shown, "machine": machine})
        else:
            return False
        return True

    @property
    def columns(self) -> list[Columns]:
        """All that grow with each line."""
        return [self.train, self.evals, self.gradient, self.weight, self.activation]

    def _add(self, columns, row):
        others = sum(other.numbers for other in self.columns if other is not columns)
        columns.add(row, MAX_NUMBERS - others)


def read_record(run: Path) -> Record:
    """What the run in this folder has written so far. Raises CheckpointError if it is none, or has measured nothing."""
    if not run.is_dir():
        raise CheckpointError(f"{run} is not the folder of a run, which python -m npgpt.train makes")
    record = Record(run, *runs.read_run_config(run))
    path = run / runs.METRICS_FILE
    if not path.is_file():
        raise CheckpointError(f"{run}: there is no {runs.METRICS_FILE}: the run has measured nothing yet")
    try:
        with open(path, "rb") as file:
            for line in _lines(file):
                if not (isinstance(values := _parsed(line), dict) and record.add(values)):
                    record.skipped += 1
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not len(record.train) + len(record.evals):
        wrong = f", and {record.skipped:,} lines that are none of npgpt's" if record.skipped else ""
        raise CheckpointError(f"{path}: no losses are in it{wrong}")
    for columns in record.columns:
        columns.sort()
    return record


def _lines(file) -> Iterator[bytes]:
    """Lines, an endless one cut off. A last one without its end is still being written, or a kill has cut it."""
    too_long = False
    while line := file.readline(MAX_LINE):
        ended = line.endswith(b"\n")
        if ended or len(line) == MAX_LINE:
            if not too_long and (line.strip() or not ended):
                yield line if ended else b""
            too_long = not ended


def _parsed(line):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_number(value):
    return type(value) in (int, float) and abs(value) < 1e300  # which is False for NaN


def _is_passage(line):
    pieces, losses = line.get("pieces"), line.get("losses")
    if not (isinstance(pieces, list) and isinstance(losses, list) and isinstance(line.get("activation"), dict)):
        return False
    right_size = len(losses) + 1 == len(pieces) <= MAX_PIECES
    texts = all(isinstance(piece, str) and len(piece) <= 200 for piece in pieces)
    return right_size and texts and all(loss is None or _is_number(loss) for loss in losses)
