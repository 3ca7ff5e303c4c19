"""Progress: what a run tells while it trains."""

import math
import time
from typing import Any

from npgpt.training.inspection import Inspection
from npgpt.training.live import LiveLine
from npgpt.training.log import format_count, format_duration, log, log_text
from npgpt.training.metrics import Metrics
from npgpt.training.plan import Plan
from npgpt.training.reporter import Reporter


class Progress:
    """Writes what happens in a run to stderr and metrics.jsonl, with the time it has taken and the training's speed.

    The time is that of training, evaluations, samples and saves: it begins with ``start``, when kernels are compiled
    and the pace is known, so it doesn't depend on what was in a cache. Evaluations don't count for the speed.
    A terminal shows a live line in place of the lines about steps. ``metrics`` and ``report`` are set when the run has
    a folder.
    """

    metrics: Metrics
    report: Reporter

    def __init__(self, plan: Plan, log_every: int, tokens_per_step: int, inspection: Inspection):
        self.plan, self.log_every, self.tokens_per_step, self.inspection = plan, log_every, tokens_per_step, inspection
        self.elapsed_before = 0.0  # seconds spent by earlier processes of a resumed run
        self.live = LiveLine()
        self._began: float | None = None  # when this process began to train
        self._mark = time.monotonic()
        self._training_seconds, self._steps = 0.0, 0  # since the last line about a step

    def start(self) -> None:
        """Let the run's time begin now."""
        self._began = self._mark = time.monotonic()

    def skip(self) -> None:
        """Leave the time since the last event out of the training's speed."""
        self._mark = time.monotonic()

    def elapsed(self) -> float:
        """Seconds spent on the run so far, by all of its processes."""
        return self.elapsed_before + (0.0 if self._began is None else time.monotonic() - self._began)

    def process(self, step: int, **described: Any) -> None:
        """Note that this process goes on from ``step``: its command, the date, the machine."""
        self.metrics.write("process", step, **described)

    def step(self, step: int, loss: float, lr: float, norm: float) -> None:
        """Note a training step, and log every ``log_every``-th, the first and the last."""
        now = time.monotonic()
        self._training_seconds += now - self._mark
        self._mark = now
        self._steps += 1
        speed = self._steps / max(self._training_seconds, 1e-9)
        left = (self.plan.max_steps - step) / speed
        tokens, tokens_per_second = step * self.tokens_per_step, speed * self.tokens_per_step
        pace, rest = f"{format_count(tokens_per_second)}/s", f"{format_duration(left)} left"
        self.live.show(step, self.plan.max_steps, f"loss {loss:.4f}", pace.replace("/", " tok/"), rest)
        if not (step == 1 or self.plan.is_due(self.log_every, step)):
            return
        self._training_seconds, self._steps = 0.0, 0
        self.metrics.write(
            "train", step, loss=loss, lr=lr, grad_norm=norm, tokens=tokens,
            tokens_per_second=round(tokens_per_second, 1), seconds=round(self.elapsed(), 2),
            seconds_left=round(left, 1),
        )  # fmt: skip
        self.metrics.write("layers", step, **self.inspection.sizes())
        if not self.live.shown:
            place, done = self._place(step), f"{format_count(tokens)} tok"
            log(f"{place}  loss {loss:.4f}  lr {lr:.1e}  norm {norm:.2f}  {done}, {pace}  {rest}")
        self.report.update()
        self.skip()

    def evaluation(self, step: int, losses: dict[str, float]) -> None:
        """Log the losses of an evaluation, {"train": ..., "val": ...}, and look inside the model."""
        named = {f"{name}_loss": loss for name, loss in losses.items()}
        spent = {"tokens": step * self.tokens_per_step, "seconds": round(self.elapsed(), 2)}
        self.metrics.write("eval", step, **named, **spent)
        self.metrics.write("passage", step, **self.inspection.passage(step))
        log(f"{self._place(step)}  " + "  ".join(f"{name} loss {loss:.4f}" for name, loss in losses.items()))
        self.live.evaluated(losses)
        self.report.update()
        self.skip()

    def sample(self, step: int, text: str) -> None:
        """Log a text that the model made."""
        self.metrics.write("sample", step, text=text)
        log_text(text)
        self.report.update()
        self.skip()

    def end(self) -> None:
        """Take the live line away, and write the report once more."""
        self.live.close()
        self.report.write()

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.elapsed_before = float(state["elapsed"])
        if not 0 <= self.elapsed_before < math.inf:
            raise ValueError(f"{self.elapsed_before} is no time in seconds")

    def _place(self, step):
        return f"{step:>{len(str(self.plan.max_steps))}}/{self.plan.max_steps}"
