"""Plan: what a run does, every default filled in; and the defaults. Nothing heavy is imported.

``TrainSettings.resolve`` makes a plan when a run begins. The run stores it, and follows it when it is resumed.
"""

from dataclasses import dataclass, fields, replace

from npgpt.schedules import warmup_constant, warmup_cosine, warmup_linear, warmup_stable_decay

TOKENIZER = "gpt2"
PRESET = "mini"
MAX_STEPS = 200
WARMUP_PART = 20  # the warm-up is a twentieth of the steps
SCHEDULE = "cosine"
MIN_LR_PART = 10  # the learning rate falls to a tenth
DECAY_FRACTION = 0.2  # of the steps, in which the schedule "wsd" falls
EVAL_PART = 10  # an evaluation after each tenth of the steps


@dataclass(frozen=True)
class Plan:
    """What a run follows. Fields have the names of the settings that they come from."""

    context: int  # T, tokens per sequence
    max_steps: int
    lr: float  # the highest learning rate, which is reached after ``warmup`` steps
    warmup: int
    min_lr: float  # the learning rate from step ``decay_steps`` on
    decay_steps: int
    eval_every: int
    sample_every: int  # 0 for no samples
    sample_prompt: str
    schedule: str = SCHEDULE  # has a default, as the next field: plans of earlier versions lack them
    decay_fraction: float = DECAY_FRACTION
    time_budget: float = 0.0  # seconds for which ``max_steps`` are still to be chosen; 0 once they are

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0.

        >>> plan = Plan(8, 100, 1.0, 4, 0.1, decay_steps=20, eval_every=10, sample_every=0, sample_prompt="")
        >>> [round(plan.learning_rate(step), 3) for step in (0, 3, 4, 12, 20, 99)]
        [0.25, 1.0, 1.0, 0.55, 0.1, 0.1]
        """
        falling = step, self.lr, self.min_lr, self.warmup, self.decay_steps
        match self.schedule:
            case "constant":
                return warmup_constant(step, self.lr, self.warmup)
            case "linear":
                return warmup_linear(*falling)
            case "wsd":
                return warmup_stable_decay(*falling, self.decay_fraction)
            case "cosine":
                return warmup_cosine(*falling)
        raise ValueError(f"there is no schedule {self.schedule!r}")

    def is_due(self, every: int, step: int) -> bool:
        """Whether what happens every so many steps, and after the last one, happens after ``step``; 0 is never."""
        return every > 0 and (step % every == 0 or step == self.max_steps)

    def changed(self, resolved: "Plan", given: set[str]) -> "Plan":
        """This plan with the settings ``given`` on resume, whose values are in ``resolved``. All else stays as it was.

        More steps don't stretch the schedule: the learning rate stays where it is after ``decay_steps``. But a run that
        was too short for its warm-up gets the schedule of the longer run, whose rates have been the same so far.
        """
        names = given & {f.name for f in fields(Plan)}
        if "max_steps" in given and self.warmup > max(self.max_steps, self.decay_steps):
            names.add("decay_steps")
        return replace(self, **{name: getattr(resolved, name) for name in names})
