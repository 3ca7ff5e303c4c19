"""The training loop.

A run is a function of its settings and its text. What a step needs besides the weights is a function of the step's
number (the batches, the learning rate) or is stored with them (the optimizer's moments, the dropout generator's state);
so stopping and resuming gives the same weights, bit for bit, as never having stopped.
"""

import math
from collections.abc import Iterable

from npgpt.errors import TrainingDiverged
from npgpt.gpt import GPT
from npgpt.optim import AdamW, clip_scale, grad_norm
from npgpt.signals import StopRequest
from npgpt.training.divergence import which_gradient
from npgpt.training.run import Run
from npgpt.training.team import ALONE, Alone, Part


def fit(run: Run, stop: StopRequest) -> None:
    """Train until all steps are done, early stopping ends it, or a stop is requested. Raises TrainingDiverged.

    Each turn of the loop does one thing: it evaluates, samples, or takes a step. So a stop or a save can come between
    any two of them, and a resumed run goes on with the next.
    """
    while not stop.requested:
        if run.evaluation.due(run.step):
            losses = run.evaluation.losses(run.step, lambda: stop.requested)
            if losses is not None:  # else a stop was requested meanwhile
                run.progress.evaluation(run.step, losses)
                if "val" in losses and run.early_stopping.update(run.step, losses["val"]):
                    run.saver.save_best()
        elif run.samples.due(run.step):
            run.progress.sample(run.step, run.samples.text(run.step))
        elif run.step >= run.plan.max_steps or run.early_stopping.reached:
            break
        else:
            lr = run.plan.learning_rate(run.step)
            loss, norm = take_step(run, lr)
            run.step += 1
            run.progress.step(run.step, loss, lr, norm)
        if run.saver.due:
            run.evaluation.check(run.step)  # weights that have diverged don't replace good ones
            run.saver.save()


def take_step(run: Run, lr: float) -> tuple[float, float]:
    """The run's next step, with this learning rate -> the mean loss of its targets, and the gradient's norm."""
    parts = run.team.share_out(run.data.micro_batches(run.step), lr)
    return train_step(run.model, run.optimizer, parts, lr, run.settings.grad_clip, run.team)


def train_step(
    model: GPT, optimizer: AdamW, parts: Iterable[Part], lr: float, grad_clip: float = 0.0, team: Alone = ALONE
) -> tuple[float, float]:
    """One step of the optimizer on the weighted sum of the parts' losses -> this sum, and its gradient's norm.

    parts       ids (B, T), targets (B, T), and the weight of their mean loss: 1 / n each for n equal batches
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
    norm = grad_norm(model.trainable_parameters())
    if not (math.isfinite(loss) and math.isfinite(norm)):
        found = f"the loss is {loss:g} and the gradient's norm {norm:g}{which_gradient(model)}"
        raise TrainingDiverged(f"step {optimizer.steps + 1}: {found}")
    optimizer.lr = lr
    optimizer.step(clip_scale(norm, grad_clip or math.inf))
    return loss, norm
