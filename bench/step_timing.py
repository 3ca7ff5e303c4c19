"""The loop that times training steps: the same one for every side, run in that side's own process."""

from time import perf_counter

import numpy as np

BATCHES = 4


def time_steps(step, job: dict) -> dict:
    """Call ``step(ids, targets) -> loss`` for the warm-up and then the counted steps. Seconds and losses of each.

    The batches are random ids, and the same few come again and again: the model learns them by heart, so the losses
    fall and show whether the sides learn alike. With ever new random ids they'd stay at log V whatever a step did.
    """
    batches = [_random_batch(job, k) for k in range(BATCHES)]
    seconds, losses = [], []
    for k in range(job["warmup"] + job["steps"]):
        ids, targets = batches[k % BATCHES]
        began = perf_counter()
        losses.append(step(ids, targets))
        seconds.append(perf_counter() - began)
    return {"warmup_seconds": seconds[: job["warmup"]], "seconds": seconds[job["warmup"] :], "losses": losses}


def _random_batch(job, k):
    """-> ids (B, T), targets (B, T), int64"""
    shape = job["batch_size"], job["context"] + 1
    tokens = np.random.default_rng([job["seed"], k]).integers(job["model"]["vocab_size"], size=shape)
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()
