"""The learning rate's schedule."""

from npgpt.optim import warmup_cosine
from npgpt.training.plan import Plan


def learning_rate(plan: Plan, step: int) -> float:
    """The learning rate of ``step``, counted from 0: up to ``lr``, half a cosine to ``min_lr``, and level.

    >>> from npgpt.training.settings import TrainSettings
    >>> plan = TrainSettings(max_steps=100, lr=1.0, warmup=4, decay_steps=20).resolve(n_windows=1, context=8)
    >>> [round(learning_rate(plan, step), 3) for step in (0, 3, 4, 12, 20, 99)]
    [0.25, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    return warmup_cosine(step, plan.lr, plan.min_lr, plan.warmup, plan.decay_steps)
