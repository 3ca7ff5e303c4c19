"""The loop that times training steps: the same one for every side, run in that side's own process."""

from time import perf_counter

import numpy as np

BATCHES = 4


def time_steps(step, job: dict, warmed_up=lambda: None) -> dict:
    """Call ``step(ids, targets, done) -> loss`` for the warm-up and then the counted steps. Seconds and losses of each.

    A step calls ``done(phase)`` where a phase of it ends, so that the counted steps' phases have their seconds too.
    ``warmed_up`` is called once, between the two.

    The batches are random ids, and the same few come again and again. The model learns them by heart, so the losses
    fall and show whether the sides learn alike. With new random ids each step they would stay at log V.
    """
    batches = [_random_batch(job, k) for k in range(BATCHES)]
    seconds, losses, phases, ends = [], [], {}, []

    def done(phase):
        ends.append((phase, perf_counter()))

    for k in range(job["warmup"] + job["steps"]):
        if k == job["warmup"]:
            warmed_up()
        ids, targets = batches[k % BATCHES]
        ends.clear()
        began = perf_counter()
        losses.append(step(ids, targets, done))
        seconds.append(perf_counter() - began)
        if k >= job["warmup"]:
            for phase, end in ends:
                phases.setdefault(phase, []).append(end - began)
                began = end
    return {
        "warmup_seconds": seconds[: job["warmup"]],
        "seconds": seconds[job["warmup"] :],
        "phases": phases,
        "losses": losses,
    }


def _random_batch(job, k):
    """-> ids (B, T), targets (B, T), int64"""
    shape = job["batch_size"], job["context"] + 1
    tokens = np.random.default_rng([job["seed"], k]).integers(job["model"]["vocab_size"], size=shape)
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()
