"""What a run does every so many steps: losses of fixed batches, which may stop it early, and samples."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.errors import TrainingDiverged
from npgpt.generation import Decoder, Sampling, stream
from npgpt.gpt import GPT
from npgpt.text.batches import IGNORED
from npgpt.text.tokenizers import Tokenizer
from npgpt.training.plan import Plan
from npgpt.training.team import ALONE, Batch


def count_of(value: object, least: int = 0) -> int:
    """A count from a stored state, such as a number of steps. Raises ValueError on anything else."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no number of steps")
    return value


class Periodic:
    """What happens every so many steps, and remembers the step after which it last did.

    every   every(plan) is that number, looked up each time since a run may get another plan
    """

    def __init__(self, plan: Plan, every: Callable[[Plan], int]):
        self.plan, self.every = plan, every
        self.last_step = -1

    def due(self, step: int) -> bool:
        """Whether it is to happen after ``step``, and has not yet."""
        return step != self.last_step and self.plan.is_due(self.every(self.plan), step)

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_step = count_of(state["last_step"], least=-1)


class Evaluation(Periodic):
    """The mean loss of some batches of each split, always the same ones, every ``plan.eval_every`` steps."""

    def __init__(self, model: GPT, splits: dict[str, list[Batch]], plan: Plan):
        super().__init__(plan, every=lambda plan: plan.eval_every)
        self.model, self.splits = model, splits
        self.team = ALONE

    def losses(self, step: int, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """{split: mean loss}, or None if ``stopped()`` meanwhile. Raises TrainingDiverged if one is not finite."""
        losses = {}
        for name, batches in self.splits.items():
            loss = self._mean_loss(step, name, batches, stopped)
            if loss is None:
                return None
            losses[name] = loss
        self.last_step = step
        return losses

    def check(self, step: int) -> None:
        """Raise TrainingDiverged if the weights give no finite loss. One batch shows that, or the last evaluation."""
        if step != self.last_step:
            self._mean_loss(step, "train", self.splits["train"][:1], lambda: False)

    def _mean_loss(self, step, name, batches, stopped) -> float | None:
        """The mean cross-entropy over all targets of the batches, dropout off."""
        self.model.eval()
        losses = self.team.losses(self.model, batches, stopped)
        if losses is None:
            return None
        total, count = 0.0, 0
        for (_, targets), loss in zip(batches, losses, strict=True):
            learned = int(np.count_nonzero(targets != IGNORED))
            total += loss * learned
            count += learned
        if not math.isfinite(total):
            raise TrainingDiverged(f"after step {step}: the {name} loss is {total / count:g}")
        return total / count


class EarlyStopping:
    """The lowest validation loss so far, and how many evaluations ago there was progress.

    patience    stop after so many evaluations without progress; None: no limit
    min_delta   progress is a loss more than this below that of the last progress. A slow fall counts once it adds up
                to that

    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping.update(step, loss) for step, loss in [(10, 4.0), (20, 3.0), (30, 3.5), (40, 3.0)]]
    [True, True, False, False]
    >>> stopping.best, stopping.best_step, stopping.reached
    (3.0, 20, True)
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best = self.reference = math.inf
        self.best_step: int | None = None
        self.evaluations_without_progress = 0
        self.reached = False  # not stored: a run that is resumed trains to its next evaluation

    def update(self, step: int, loss: float) -> bool:
        """Note a validation loss; returns whether it is the lowest. That of the untrained model doesn't count."""
        if step == 0:
            return False
        progress, lowest = loss < self.reference - self.min_delta, loss < self.best
        self.evaluations_without_progress = 0 if progress else self.evaluations_without_progress + 1
        if progress:
            self.reference = loss
        if lowest:
            self.best, self.best_step = loss, step
        self.reached = self.patience is not None and self.evaluations_without_progress >= self.patience
        return lowest

    def state_dict(self) -> dict[str, Any]:
        names = ("best", "best_step", "reference", "evaluations_without_progress")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = float(state["best"])
        self.best_step = None if state["best_step"] is None else count_of(state["best_step"])
        self.reference = float(state.get("reference", state["best"]))  # older runs have none
        self.evaluations_without_progress = count_of(state["evaluations_without_progress"])


class Samples(Periodic):
    """A text of ``tokens`` new tokens every ``plan.sample_every`` steps, drawn as npgpt.sample draws by default."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, plan: Plan, tokens: int):
        super().__init__(plan, every=lambda plan: plan.sample_every)
        self.decoder = Decoder(model, weights=None)  # no copies of weights that the next step changes
        self.tokenizer, self.tokens = tokenizer, tokens
        self.prompt = tokenizer.encode_prompt(plan.sample_prompt)
        self.sampling = Sampling().without(range(tokenizer.vocab_size, model.config.vocab_size))  # ids without a text

    def text(self, step: int) -> str:
        """The prompt and what follows, whole characters only; the step is the seed. Raises TrainingDiverged."""
        text, characters = self.plan.sample_prompt, self.tokenizer.decoder()
        try:
            for token in stream(self.decoder, [self.prompt], self.tokens, self.sampling, seed=step):
                text += characters.decode(token.id)
        except FloatingPointError:
            raise TrainingDiverged(f"after step {step}: a sample's logits are not finite") from None
        self.last_step = step
        return text
