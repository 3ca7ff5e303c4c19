"""The training loop.

A run is a function of its settings and its text. What a step needs besides the weights is a function of the step's
number (the batches, the learning rate) or is stored with them (the optimizer's moments, the dropout generator's state);
so stopping and resuming gives the same weights, bit for bit, as never having stopped.
"""

import math
from collections.abc import Iterable

from npgpt.errors import TrainingDiverged
from npgpt.gpt import GPT
from npgpt.optim import AdamW, clip_grad_norm, warmup_cosine
from npgpt.signals import StopRequest
from npgpt.training.plan import Plan
from npgpt.training.run import Run
from npgpt.training.team import ALONE, Alone, Part


def fit(run: Run, stop: StopRequest) -> None:
    """Train until all steps are done, early stopping ends it, or a stop is requested. Raises TrainingDiverged."""
    while not stop.requested:
        if run.evaluation.due(run.step):
            losses = run.evaluation.losses(run.step, lambda: stop.requested)
            if losses is not None:
                run.progress.evaluation(run.step, losses)
                if "val" in losses and run.early_stopping.update(run.step, losses["val"]):
                    run.saver.save_best()
        elif run.samples.due(run.step):
            run.progress.sample(run.step, run.samples.text(run.step))
        elif run.step >= run.plan.max_steps or run.early_stopping.reached:
            break
        else:
            lr = learning_rate(run.plan, run.step)
            parts = run.team.share_out(run.data.micro_batches(run.step), lr)
            loss, norm = train_step(run.model, run.optimizer, parts, lr, run.settings.grad_clip, run.team)
            run.step += 1
            run.progress.step(run.step, loss, lr, norm)
        if run.saver.due:
            run.evaluation.check(run.step)  # weights that have diverged don't replace good ones
            run.saver.save()


def train_step(
    model: GPT, optimizer: AdamW, parts: Iterable[Part], lr: float, grad_clip: float = 0.0, team: Alone = ALONE
) -> tuple[float, float]:
    """One step of the optimizer, by the gradient of the parts' weighted losses -> their sum, and the gradient's norm.

    parts       ids (B, T), targets (B, T), and the weight of their mean loss: 1 / n for the mean of n batches
    grad_clip   the largest norm of the gradient; 0 for no limit
    team        the processes whose losses and gradients are added up

    Raises TrainingDiverged, before anything is changed, if the loss or the norm is not finite.
    """
    model.train()
    optimizer.zero_grad()
    loss = 0.0
    for ids, targets, weight in parts:
        micro_loss = model.loss(ids, targets) * weight
        micro_loss.backward(done=team.gradient_done)
        loss += micro_loss.item()
    loss = team.add_up(loss)
    norm = clip_grad_norm(model.trainable_parameters(), grad_clip or math.inf)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDiverged(f"step {optimizer.steps + 1}: the loss is {loss:g} and the gradient's norm {norm:g}")
    optimizer.lr = lr
    optimizer.step()
    return loss, norm


def learning_rate(plan: Plan, step: int) -> float:
    """The learning rate of ``step``, counted from 0: up to ``lr``, half a cosine to ``min_lr``, and level.

    >>> from npgpt.training.settings import TrainSettings
    >>> plan = TrainSettings(max_steps=100, lr=1.0, warmup=4, decay_steps=20).resolve(n_windows=1, context=8)
    >>> [round(learning_rate(plan, step), 3) for step in (0, 3, 4, 12, 20, 99)]
    [0.25, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    return warmup_cosine(step, plan.lr, plan.min_lr, plan.warmup, plan.decay_steps)
