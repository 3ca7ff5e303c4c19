"""What a training step does besides: clipping, and the learning rate's schedule."""

import math
from functools import partial

import numpy as np

from npgpt.optim import clip_grad_norm
from npgpt.schedules import warmup_cosine
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values
from npgpt.tensor import Tensor

# Clipping


def _package_clip(gradients, max_norm):
    tensors = [Tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
    for tensor, g in zip(tensors, gradients, strict=True):
        tensor.grad = g.copy()
    norm = clip_grad_norm(tensors, max_norm)
    return [tensor.grad for tensor in tensors], norm


def _norm(gradients):
    return math.sqrt(sum((g**2).sum() for g in gradients))


def _clip_each(gradients, max_norm):
    return [g * min(1, max_norm / _norm([g])) for g in gradients], _norm(gradients)


def _scaled(gradients, max_norm, norm):
    return [g * min(1, max_norm / norm) for g in gradients], norm


CLIPPING = Exercise(
    name="clipping",
    title="Clip the gradients' norm.",
    task="""
All gradients of a model together are one long vector. Its norm is the root of
the sum of all squares. If it is larger than max_norm, scale all of them by one
factor, so that it becomes max_norm. Else leave them as they are, and so where
the norm is NaN or infinite: what is wrong should show, and not be hidden.

Return a list of new arrays, and the norm before.
""",
    read="npgpt/optim.py: clip_grad_norm (after you tried)",
    signature="clip(gradients, max_norm)",
    gives="a list of arrays, and a number -> a list of arrays, and the norm before",
    outputs=("gradients", "norm"),
    reference=_package_clip,
    cases=(
        Case("a norm above max_norm", {"gradients": [2 * values(3), values(2, 2)], "max_norm": 1.0}),
        Case("a norm below max_norm", {"gradients": [values(3), values(2, 2)], "max_norm": 50.0}),
        Case("all are 0", {"gradients": [np.zeros(2), np.zeros(3)], "max_norm": 1.0}),
        Case("one is infinite", {"gradients": [np.array([1.0, np.inf]), np.array([3.0])], "max_norm": 1.0}),
    ),
    mistakes=(
        Mistake(
            _clip_each,
            "Each array is clipped by itself. Does clipping keep the direction of the whole gradient?",
        ),
        Mistake(
            lambda g, max_norm: _scaled(g, max_norm, max(_norm([x]) for x in g)),
            "That is the norm of the longest array. The norm is that of all of them as one long vector.",
        ),
        Mistake(
            lambda g, max_norm: ([np.clip(x, -max_norm, max_norm) for x in g], _norm(g)),
            "Each element is clipped by itself, which changes the direction. One factor for all keeps it.",
        ),
        Mistake(
            lambda g, max_norm: _scaled(g, max_norm, sum(_norm([x]) for x in g)),
            "You add norms up. Add up the squares of all elements, and take the root once.",
        ),
        Mistake(
            lambda g, max_norm: _scaled(g, max_norm, _norm(g) ** 2),
            "The root is missing: that is the norm squared.",
        ),
        Mistake(
            lambda g, max_norm: ([x / _norm(g) * max_norm for x in g], _norm(g)),
            "Gradients whose norm is below max_norm stay as they are: clipping never makes them longer.",
        ),
        Mistake(
            lambda g, max_norm: ([x / (_norm(g) + 1e-6) * max_norm for x in g], _norm(g)),
            "max_norm is what the norm becomes: without a small number added. Gradients below it stay as they are.",
        ),
        Mistake(
            lambda g, max_norm: (_scaled(g, max_norm, _norm(g) or 1.0)[0], _norm(g)),
            "An infinite norm makes all gradients 0, and infinity times 0 is NaN. Leave them as they are.",
        ),
        Mistake(lambda g, max_norm: (None, max_norm), "Return the norm as it was before clipping."),
    ),
)

# The learning rate

_WHERE = {"lr": 1.0, "min_lr": 0.1, "warmup": 3, "max_steps": 11}


def _rate(step, lr, min_lr, warmup, max_steps, first=1, turns=1.0, begin=None, floor=True):
    if step < warmup:
        return lr * (step + first) / warmup
    begin = warmup if begin is None else begin
    p = min(1.0, (step - begin) / max(1, max_steps - begin))
    return floor * min_lr + (lr - floor * min_lr) * (1 + math.cos(turns * math.pi * p)) / 2


def _beyond(step, lr, min_lr, warmup, max_steps):
    if step < warmup:
        return lr * (step + 1) / warmup
    p = (step - warmup) / max(1, max_steps - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * p)) / 2


SCHEDULE = Exercise(
    name="schedule",
    title="The learning rate: up a line, down half a cosine.",
    task="""
Steps are counted from 0. In the first ``warmup`` of them, the rate goes up in
a straight line: it is lr / warmup in step 0, and lr in step warmup - 1. Then p
goes from 0, in step ``warmup``, to 1, in step ``max_steps``, and

    rate = min_lr + (lr - min_lr) f(p)

where f is half a cosine: 1 at p = 0, and 0 at p = 1. From step ``max_steps``
on it is min_lr, also if ``max_steps`` is ``warmup``.
""",
    read="npgpt/schedules.py (after you tried)",
    signature="learning_rate(step, lr, min_lr, warmup, max_steps)",
    gives="whole numbers step, warmup and max_steps; numbers lr and min_lr -> the rate",
    outputs=("rate",),
    reference=warmup_cosine,
    cases=(
        *(Case(f"step {step}", {"step": step, **_WHERE}) for step in (0, 1, 2, 3, 5, 8, 11, 14)),
        Case("no warm-up, step 0", {"step": 0, **_WHERE, "warmup": 0}),
        Case("no way down: max_steps is warmup", {"step": 3, **_WHERE, "max_steps": 3}),
    ),
    mistakes=(
        Mistake(
            partial(_rate, first=0),
            "What does a step with a learning rate of 0 learn? Step 0 has lr / warmup.",
        ),
        Mistake(partial(_rate, turns=2.0), "What is the cosine at the end of the schedule? Half a turn is pi."),
        Mistake(partial(_rate, begin=0), "p is 0 in step ``warmup``, and not in step 0."),
        Mistake(
            partial(_rate, floor=False),
            "The cosine goes from lr to min_lr: yours goes to 0. It isn't cut off at min_lr either.",
        ),
        Mistake(_beyond, "After max_steps the rate stays at min_lr. Your cosine goes up again."),
    ),
)
