"""metrics.jsonl: all that is measured in a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgpt.checkpoints.shared.atomic import atomic_write
from npgpt.training.log import log


class Metrics:
    """metrics.jsonl: one JSON object a line, each with its kind and the step after which it was written.

    kind "process"      where and by which command a process began to train: command, date, machine
         "train"        a step: loss, lr, grad_norm, tokens, tokens_per_second, seconds, seconds_left
         "layers"       after that step: gradient, weight (``Inspection.sizes``)
         "eval"         train_loss, val_loss, tokens, seconds
         "passage"      pieces, losses, activation (``Inspection.passage``)
         "sample"       text

    seconds are those since the run began to train, without compiling before that.

    also    what else is told of each line: also(kind, step, values)
    """

    def __init__(self, path: Path, *also: Callable[[str, int, dict[str, Any]], None]):
        self.path, self.also = path, also
        self._complained = self._is_cut = False

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a line. A line that can't be written is lost, which is logged once: the training goes on."""
        line = json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False) + "\n"
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n" * self._is_cut + line)  # the next line is whole, too
            self._is_cut = False
        except OSError as error:
            self._is_cut = True
            if not self._complained:
                log(f"{self.path} can't be written: {error.strerror}; training goes on, and lines are missing there")
            self._complained = True
        for tell in self.also:
            tell(kind, step, values)

    def truncate(self, last_steps: dict[str, int]) -> None:
        """Remove each kind's lines after its last step: those steps were lost and will be logged again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028 and the like
            try:
                values = json.loads(line)
                if values["step"] <= last_steps[values["kind"]]:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):  # a line that a kill cut short
                continue
        with atomic_write(self.path) as file:
            file.write("".join(kept).encode())
