"""Evaluation: the losses of fixed batches, and what they decide: the best weights, and when to stop early."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.errors import TrainingDiverged
from npgpt.gpt import GPT
from npgpt.tensor import no_grad
from npgpt.training.plan import Periodic, Plan

Batch = tuple[np.ndarray, np.ndarray]  # ids (B, T), targets (B, T)


class Evaluation(Periodic):
    """The mean loss of some batches of each split, always the same ones, every ``plan.eval_every`` steps."""

    def __init__(self, model: GPT, splits: dict[str, list[Batch]], plan: Plan):
        super().__init__(plan, plan.eval_every)
        self.model, self.splits = model, splits

    def losses(self, step: int, stopped: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """{split: mean loss}, or None if ``stopped()`` meanwhile. Raises TrainingDiverged if one is not finite."""
        losses = {}
        for name, batches in self.splits.items():
            losses[name] = self._finite(step, name, mean_loss(self.model, batches, stopped))
            if losses[name] is None:
                return None
        self.last_step = step
        return losses

    def check(self, step: int) -> None:
        """Raise TrainingDiverged if the weights give no finite loss. One batch shows that, or the last evaluation."""
        if step != self.last_step:
            self._finite(step, "train", mean_loss(self.model, self.splits["train"][:1]))

    def _finite(self, step, name, loss):
        if loss is not None and not math.isfinite(loss):
            raise TrainingDiverged(f"after step {step}: the {name} loss is {loss:g}")
        return loss


@no_grad()
def mean_loss(model: GPT, batches: list[Batch], stopped: Callable[[], bool] = lambda: False) -> float | None:
    """The mean cross-entropy over all targets of the batches, dropout off; None if ``stopped()`` meanwhile."""
    model.eval()
    total = count = 0
    for ids, targets in batches:
        if stopped():
            return None
        total += model.loss(ids, targets).item() * targets.size
        count += targets.size
    return total / count


class EarlyStopping:
    """The lowest validation loss so far, and how many evaluations ago there was progress.

    patience    so many evaluations without progress are the end; None: there is no such end
    min_delta   by how much the loss must fall below the lowest one to count as progress

    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping.update(step, loss) for step, loss in [(10, 4.0), (20, 3.0), (30, 3.5), (40, 3.0)]]
    [True, True, False, False]
    >>> stopping.best, stopping.best_step, stopping.reached
    (3.0, 20, True)
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.best_step = math.inf, None
        self.evaluations_without_progress = 0
        self.reached = False  # not stored: a run that is resumed trains to its next evaluation

    def update(self, step: int, loss: float) -> bool:
        """Note a validation loss; returns whether it is the lowest. That of the untrained model doesn't count."""
        if step == 0:
            return False
        progress, lowest = loss < self.best - self.min_delta, loss < self.best
        self.evaluations_without_progress = 0 if progress else self.evaluations_without_progress + 1
        if lowest:
            self.best, self.best_step = loss, step
        self.reached = self.patience is not None and self.evaluations_without_progress >= self.patience
        return lowest

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best", "best_step", "evaluations_without_progress")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = float(state["best"]), state["best_step"]
        self.evaluations_without_progress = int(state["evaluations_without_progress"])
