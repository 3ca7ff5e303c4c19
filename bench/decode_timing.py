"""The work of all sides of bench.decode in their processes: the same prompts and the same ids, timed alike."""

import json
import sys
from time import perf_counter
from typing import Protocol

import numpy as np

from bench.load_timing import memory

LOGITS = 1000  # so many of a row are reported


class Side(Protocol):
    """A model that is ready to decode, with its weights in one format, and memory for keys and values."""

    threads: int

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        """Begin new texts with prompts (B, T), int64 -> logits (B, V) after each."""

    def step(self, ids: np.ndarray) -> np.ndarray:
        """One more id for each text, (B,) -> logits (B, V)"""


def run(load) -> None:
    """Do the job in the first argument with the side that ``load(job)`` makes, and print a report as JSON.

    The ids after the prompt are given, and not those that the side finds likeliest: with random weights the likeliest
    few are nearly equal, and one rounding would send a side another way. Each looks for its likeliest all the same, as
    that is part of decoding; and at the end the logits must agree, which shows that all positions are right.

    seconds     of each counted step, or of each counted prefill of all prompts
    resident    VmRSS at the end, in bytes; peak: VmHWM
    logits      of each text some after the prompt and after the last id
    """
    job = json.loads(sys.argv[1])
    prompts, next_ids = _ids(job)
    side = load(job)
    seconds = []
    logits = first = side.prefill(prompts)
    first.argmax(axis=-1)
    if job["work"] == "prefill":
        for _ in range(job["warmup"] + job["times"]):
            began = perf_counter()
            logits = side.prefill(prompts)
            logits.argmax(axis=-1)
            seconds.append(perf_counter() - began)
    elif job["work"] == "decode":
        first = first.copy()  # of a side that has one place for its logits
        for ids in next_ids:
            began = perf_counter()
            logits = side.step(ids)
            logits.argmax(axis=-1)
            seconds.append(perf_counter() - began)
    report = {"threads": side.threads, "resident": memory("VmRSS"), "peak": memory("VmHWM")}
    some = slice(None, None, -(-first.shape[-1] // LOGITS))
    report["logits"] = [first[:, some].tolist(), logits[:, some].tolist()]
    print(json.dumps({**report, "seconds": seconds[job["warmup"] :]}))


def _ids(job):
    """-> prompts (B, T), the ids after them (steps, B), int64"""
    rng = np.random.default_rng(job["seed"])
    V, B = job["model"]["vocab_size"], job["batch_size"]
    prompts = rng.integers(V, size=(B, job["prompt"]))
    return prompts, rng.integers(V, size=(job["warmup"] + job["times"], B))
