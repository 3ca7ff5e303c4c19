"""A run's pace, measured by a few of its own steps that change nothing."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from npgpt.generation import stream
from npgpt.training.loop import take_step
from npgpt.training.metrics import Metrics
from npgpt.training.pace import Pace
from npgpt.training.run import Run

STEPS = 5  # at most
SECONDS = 3.0  # of steps that count, and no further one after so long
TOKENS = 8  # of a sample


def rehearse(run: Run, stopped: Callable[[], bool]) -> Pace | None:
    """Measure the parts of a run that has not begun; None if ``stopped()`` meanwhile.

    The first step of a process is slower than others, since its memory is new: it doesn't count. A step with a learning
    rate of 0 leaves the weights as they are, bit for bit. The moments that it makes are set back to zero, and dropout's
    random numbers to where they were.
    """
    if run.optimizer.steps:
        raise ValueError("a run that has made steps can't be rehearsed: its moments would change")
    random_numbers = run.model.get_rng_state()
    steps: list[float] = []
    while not stopped() and len(steps) < STEPS and sum(steps[1:]) < SECONDS:
        steps.append(_seconds(lambda: take_step(run, lr=0.0)))
    line = _second_time(_line(run), stopped)
    run.team.forget(run.optimizer)
    run.model.set_rng_state(random_numbers)
    batches = sum(run.team.sequences(len(split)) for split in run.evaluation.splits.values())
    evaluation = _second_time(lambda: run.evaluation.check(run.step), stopped)
    passage = _second_time(lambda: run.inspection.passage(run.step), stopped)
    sample = _second_time(_sample(run), stopped)
    if stopped():
        return None
    new_tokens = min(TOKENS, run.samples.tokens)
    return Pace(
        step=median(steps[1:] or steps),
        evaluation=evaluation * batches + passage,
        sample=sample * run.samples.tokens / new_tokens if run.plan.sample_every else 0.0,
        save=run.saver.seconds,
        line=line,
        log_every=run.settings.log_every,
    )


def _line(run):
    """A function that writes what a log line says of the model's inside to nowhere."""
    nowhere = Metrics(Path(os.devnull))
    return lambda: nowhere.write("layers", run.step, **run.inspection.sizes())


def _sample(run):
    """A function that makes the first tokens of a sample."""
    new_tokens = min(TOKENS, run.samples.tokens)

    def sample():
        if run.plan.sample_every:
            samples = run.samples
            for _ in stream(samples.decoder, [samples.prompt], new_tokens, samples.sampling, seed=0):
                pass

    return sample


def _second_time(part, stopped) -> float:
    """Seconds of a part that has been done once, so that nothing is new for it."""
    if stopped():
        return 0.0
    part()
    return _seconds(part)


def _seconds(part) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began
