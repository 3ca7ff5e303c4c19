"""Plan: what a run does, every default filled in; and the defaults. Nothing heavy is imported.

``TrainSettings.resolve`` makes a plan once, when a run begins. The run stores it in its config.json and follows it when
it is resumed, whatever the defaults are by then.
"""

from dataclasses import dataclass, replace
from typing import Any

TOKENIZER = "gpt2"
PRESET = "mini"
MAX_STEPS = 200
WARMUP_PART = 20  # the warm-up is a twentieth of the steps
MIN_LR_PART = 10  # the learning rate falls to a tenth
EVAL_PART = 10  # an evaluation after each tenth of the steps

# What may change when a run is resumed with a setting that was not given before.
_CHANGES = {
    "max_steps": ("max_steps",),
    "epochs": ("max_steps",),
    "decay_steps": ("decay_steps",),
    "eval_every": ("eval_every", "sample_every"),
    "sample_every": ("sample_every",),
    "sample_prompt": ("sample_prompt",),
}


@dataclass(frozen=True)
class Plan:
    """The numbers that a run follows. They have the names of the settings that they come from.

    ==============  ======================================================================================
    context         T, tokens per sequence
    max_steps       optimizer steps
    lr              the highest learning rate
    warmup          steps of its way up
    min_lr          the learning rate from ``decay_steps`` on
    decay_steps     the step at which it has fallen to ``min_lr``
    eval_every      steps between evaluations
    sample_every    steps between samples; 0 for none
    sample_prompt   what samples begin with
    ==============  ======================================================================================
    """

    context: int
    max_steps: int
    lr: float
    warmup: int
    min_lr: float
    decay_steps: int
    eval_every: int
    sample_every: int
    sample_prompt: str

    def is_due(self, every: int, step: int) -> bool:
        """Whether what happens every so many steps, and after the last one, happens after ``step``; 0 is never."""
        return every > 0 and (step % every == 0 or step == self.max_steps)

    def changed(self, resolved: "Plan", given: set[str]) -> "Plan":
        """This plan, with what the settings ``given`` on resume change taken from their own plan, ``resolved``.

        More steps don't stretch the schedule: the learning rate stays at ``min_lr`` after ``decay_steps``.
        """
        names = [name for setting in given for name in _CHANGES.get(setting, ())]
        return replace(self, **{name: getattr(resolved, name) for name in names})


class Periodic:
    """What happens every so many steps, and remembers the step after which it last did."""

    def __init__(self, plan: Plan, every: int):
        self.plan, self.every = plan, every
        self.last_step = -1

    def due(self, step: int) -> bool:
        """Whether it is to happen after ``step``, and has not yet."""
        return step != self.last_step and self.plan.is_due(self.every, step)

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_step = int(state["last_step"])
