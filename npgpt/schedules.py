"""Learning rate schedules: the rate of each step, counted from 0. Nothing heavy is imported.

The rate rises in a straight line over ``warmup`` steps and reaches ``lr`` in step ``warmup - 1``. After that it is
min_lr + (lr - min_lr) f(p), where p rises from 0 to 1:

    cosine      f(p) = (1 + cos(pi p)) / 2      p rises from step ``warmup`` to step ``max_steps``
    linear      f(p) = 1 - p                    as for cosine
    wsd         f(p) = 1 - sqrt(p)              p is 0 until the last ``decay_fraction`` of the steps, and rises in it
    constant    f(p) = 1                        the rate stays ``lr``

From step ``max_steps`` on p is 1: the rate is ``min_lr``, or ``lr`` if it is constant.
"""

import math

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def warmup_cosine(step: int, lr: float, min_lr: float, warmup: int, max_steps: int) -> float:
    """Half a cosine down to ``min_lr`` at ``max_steps`` (Loshchilov & Hutter 2017, eq. 5, without restarts).

    >>> [round(warmup_cosine(step, lr=1.0, min_lr=0.0, warmup=2, max_steps=6), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    p = _progress(step, warmup, max_steps)
    return _rising(step, lr, warmup) if step < warmup else min_lr + (lr - min_lr) * (1 + math.cos(math.pi * p)) / 2


def warmup_linear(step: int, lr: float, min_lr: float, warmup: int, max_steps: int) -> float:
    """A straight line down to ``min_lr`` at ``max_steps`` (Devlin et al. 2019, section A.2).

    >>> [warmup_linear(step, lr=1.0, min_lr=0.0, warmup=2, max_steps=6) for step in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    p = _progress(step, warmup, max_steps)
    return _rising(step, lr, warmup) if step < warmup else min_lr + (lr - min_lr) * (1 - p)


def warmup_constant(step: int, lr: float, warmup: int) -> float:
    """``lr`` from the end of the warm-up on.

    >>> [warmup_constant(step, lr=1.0, warmup=2) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    return _rising(step, lr, warmup) if step < warmup else lr


def warmup_stable_decay(
    step: int, lr: float, min_lr: float, warmup: int, max_steps: int, decay_fraction: float
) -> float:
    """``lr`` until the last ``decay_fraction`` of ``max_steps``, then 1 - sqrt(p) down to ``min_lr`` at ``max_steps``.

    Until the decay begins, the rates don't depend on ``max_steps``: a run can be continued from there with more steps
    (Hu et al. 2024, on their WSD scheduler). 1 - sqrt is the form of Hägele et al. 2024, section 3, who reached a lower
    loss with it than with a straight line. They decay during the last fifth of the steps, npgpt's default.

    >>> rates = [warmup_stable_decay(step, 1.0, 0.0, warmup=2, max_steps=10, decay_fraction=0.4) for step in range(11)]
    >>> [round(rate, 3) for rate in rates]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0]
    """
    begin = max(warmup, max_steps - round(decay_fraction * max_steps))
    p = _progress(step, begin, max_steps)
    return _rising(step, lr, warmup) if step < warmup else min_lr + (lr - min_lr) * (1 - math.sqrt(p))


def _rising(step, lr, warmup):
    """The rate during the warm-up. In step 0 it is lr / warmup and not 0, or the step would learn nothing."""
    return lr * (step + 1) / warmup


def _progress(step, begin, end):
    """p, from 0 at step ``begin`` to 1 at ``end``."""
    if step >= end:
        return 1.0
    return max(0, step - begin) / max(1, end - begin)
