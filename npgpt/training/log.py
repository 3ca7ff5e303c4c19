"""What a run tells while it trains: lines on stderr, and metrics.jsonl."""

import json
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

from npgpt.checkpoints.shared.atomic import atomic_write
from npgpt.training.plan import Plan


def log(line: str) -> None:
    """Print a line of progress to stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def log_text(text: str) -> None:
    """Log a text that the model made, indented, without control characters: a terminal would obey them."""
    shown = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    log("    | " + shown.replace("\n", "\n    | "))


def format_duration(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any.

    >>> format_duration(75), format_duration(3675)
    ('1:15', '1:01:15')
    """
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def format_count(number: float) -> str:
    """Three digits, four below 10k.

    >>> format_count(9999), format_count(61440)
    ('9999', '61.4k')
    """
    for unit, size, least in (("G", 1e9, 999.5e6), ("M", 1e6, 999.5e3), ("k", 1e3, 9999.5)):
        if number >= least:  # which rounds to 1.00 of the unit, to 10.0 of k
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


class Metrics:
    """metrics.jsonl: one JSON object a line, each with its kind and the step after which it was written."""

    def __init__(self, path: Path):
        self.path = path
        self._complained = False

    def write(self, kind: str, step: int, **values: float | str) -> None:
        """Append a line. A line that can't be written is lost, which is logged once: the training goes on."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False) + "\n")
        except OSError as error:
            if not self._complained:
                log(f"{self.path} can't be written: {error.strerror}; training goes on, and lines are missing there")
            self._complained = True

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
            except (ValueError, KeyError, TypeError):  # a line that a kill cut short
                continue
        with atomic_write(self.path) as file:
            file.write("".join(kept).encode())


class Progress:
    """Writes what happens in a run to stderr and metrics.jsonl, with the training's speed: evaluations don't count."""

    metrics: Metrics

    def __init__(self, plan: Plan, log_every: int, tokens_per_step: int):
        self.plan, self.log_every, self.tokens_per_step = plan, log_every, tokens_per_step
        self.elapsed_before = 0.0  # seconds spent by earlier processes of a resumed run
        self.start()

    def start(self) -> None:
        """Set the clock to now."""
        self._began = self._mark = time.monotonic()
        self._training_seconds, self._steps = 0.0, 0  # since the last line about a step

    def skip(self) -> None:
        """Leave the time since the last event out of the training's speed."""
        self._mark = time.monotonic()

    def elapsed(self) -> float:
        """Seconds spent on the run so far, by all of its processes."""
        return self.elapsed_before + time.monotonic() - self._began

    def step(self, step: int, loss: float, lr: float, norm: float) -> None:
        """Note a training step, and log every ``log_every``-th, the first and the last."""
        now = time.monotonic()
        self._training_seconds += now - self._mark
        self._mark = now
        self._steps += 1
        if not (step == 1 or self.plan.is_due(self.log_every, step)):
            return
        speed = self._steps / max(self._training_seconds, 1e-9)
        self._training_seconds, self._steps = 0.0, 0
        left = (self.plan.max_steps - step) / speed
        tokens, tokens_per_second = step * self.tokens_per_step, speed * self.tokens_per_step
        self.metrics.write(
            "train", step, loss=loss, lr=lr, grad_norm=norm, tokens=tokens,
            tokens_per_second=round(tokens_per_second, 1), seconds=round(self.elapsed(), 2),
            seconds_left=round(left, 1),
        )  # fmt: skip
        log(
            f"{self._place(step)}  loss {loss:.4f}  lr {lr:.1e}  norm {norm:.2f}  "
            f"{format_count(tokens)} tok, {format_count(tokens_per_second)}/s  {format_duration(left)} left"
        )

    def evaluation(self, step: int, losses: dict[str, float]) -> None:
        """Log the losses of an evaluation: {"train": ..., "val": ...}."""
        self.metrics.write("eval", step, **{f"{name}_loss": loss for name, loss in losses.items()})
        log(f"{self._place(step)}  " + "  ".join(f"{name} loss {loss:.4f}" for name, loss in losses.items()))
        self.skip()

    def sample(self, step: int, text: str) -> None:
        """Log a text that the model made."""
        self.metrics.write("sample", step, text=text)
        log_text(text)
        self.skip()

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.elapsed_before = float(state["elapsed"])

    def _place(self, step):
        return f"{step:>{len(str(self.plan.max_steps))}}/{self.plan.max_steps}"
