"""Progress: how fast training is and how long it takes; its log lines and metrics."""

import time
from typing import Any

from npgpt.training.log import Metrics, format_count, format_duration, log, log_text
from npgpt.training.plan import Plan


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
