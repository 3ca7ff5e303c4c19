"""Plan: what a run does, every default filled in; and the defaults. Nothing heavy is imported.

``TrainSettings.resolve`` makes a plan when a run begins. The run stores it, and follows it when it is resumed.
"""

from dataclasses import dataclass, fields, replace

TOKENIZER = "gpt2"
PRESET = "mini"
MAX_STEPS = 200
WARMUP_PART = 20  # the warm-up is a twentieth of the steps
MIN_LR_PART = 10  # the learning rate falls to a tenth
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

    def is_due(self, every: int, step: int) -> bool:
        """Whether what happens every so many steps, and after the last one, happens after ``step``; 0 is never."""
        return every > 0 and (step % every == 0 or step == self.max_steps)

    def changed(self, resolved: "Plan", given: set[str]) -> "Plan":
        """This plan with the settings ``given`` on resume, whose values are in ``resolved``. All else stays as it was.

        More steps don't stretch the schedule: the learning rate stays at ``min_lr`` after ``decay_steps``.
        """
        names = {"max_steps" if name == "epochs" else name for name in given} & {f.name for f in fields(Plan)}
        return replace(self, **{name: getattr(resolved, name) for name in names})
