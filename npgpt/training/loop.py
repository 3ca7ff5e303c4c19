"""The training loop.

A run is a function of its settings and its text. What a step needs besides the weights is a function of the step's
number (the batches, the learning rate) or is stored with them (the optimizer's moments, the dropout generator's state);
so stopping and resuming gives the same weights, bit for bit, as never having stopped.
"""

import math

import numpy as np

from npgpt.errors import TrainingDiverged
from npgpt.gpt import GPT
from npgpt.optim import AdamW, clip_grad_norm
from npgpt.signals import StopRequest
from npgpt.training.divergence import which_gradient
from npgpt.training.run import Run


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
            lr = run.plan.learning_rate(run.step)
            loss, norm = take_step(run, lr)
            run.step += 1
            run.progress.step(run.step, loss, lr, norm)
        if run.saver.due:
            run.evaluation.check(run.step)  # weights that have diverged don't replace good ones
            run.saver.save()


def take_step(run: Run, lr: float) -> tuple[float, float]:
    """The run's next step, with this learning rate -> the mean loss of its batches, and the gradient's norm."""
    return train_step(run.model, run.optimizer, run.data.micro_batches(run.step), lr, run.settings.grad_clip)


def train_step(
    model: GPT, optimizer: AdamW, batches: list[tuple[np.ndarray, np.ndarray]], lr: float, grad_clip: float = 0.0
) -> tuple[float, float]:
    """One step of the optimizer, by the mean gradient of all batches -> their mean loss, and the gradient's norm.

    grad_clip   the largest norm of the gradient; 0 for no limit

    Raises TrainingDiverged, before anything is changed, if the loss or the norm is not finite.
    """
    model.train()
    optimizer.zero_grad()
    loss = 0.0
    for ids, targets in batches:
        micro_loss = model.loss(ids, targets) * (1 / len(batches))
        micro_loss.backward()
        loss += micro_loss.item()
    norm = clip_grad_norm(model.trainable_parameters(), grad_clip or math.inf)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        found = f"the loss is {loss:g} and the gradient's norm {norm:g}{which_gradient(model)}"
        raise TrainingDiverged(f"step {optimizer.steps + 1}: {found}")
    optimizer.lr = lr
    optimizer.step()
    return loss, norm
