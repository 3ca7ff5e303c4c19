"""python -m bench.load : GPT-2 from a Hugging Face folder on the disk to its first logits, and transformers doing it.

Each process is fresh. Two times are taken: of the whole process, and of its work after the imports, which is finding
the model's files, reading the weights, and one forward pass over a few tokens. One round of each side goes before, so
kernels are compiled and files are in the operating system's cache. Memory is the process's peak, less that before.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from bench.commandline import Parser, check_installed, check_json_path, run, table, write_json
from bench.machine import describe, summary
from bench.processes import ProcessFailed, prepare, run_module, say
from npgpt.commandline import choice, count, flag
from npgpt.config import PRESETS

MODULES = {"npgpt": "bench.npgpt_load", "transformers": "bench.peers.transformers_load"}
TOLERANCE = 1e-4  # of a float32 logit; the largest are about 1


@dataclass(frozen=True)
class Settings:
    preset: str = flag("gpt2", choice(*PRESETS), "a model's size", "work")
    rounds: int = flag(5, count(), "processes a side", "work")
    peer: str = flag("transformers", choice("transformers", "none"), "whom to compare with", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")


def main() -> int:
    parser = Parser("load", "Time loading GPT-2 from a Hugging Face folder, up to the first logits.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    if settings.peer != "none":
        check_installed(settings.peer, "torch", "transformers")
    check_json_path(settings.json)
    machine = describe()
    threads = prepare(settings.threads)
    sides = ["npgpt", *([settings.peer] if settings.peer != "none" else [])]
    with tempfile.TemporaryDirectory() as folder:
        say("writing the model")
        weights = Path(folder) / "model"
        run_module("bench.npgpt_load", "--write", settings.preset, str(weights))
        size = (weights / "model.safetensors").stat().st_size
        say("loading it")
        for side in sides:
            run_module(MODULES[side], str(weights))
        rounds = {side: [] for side in sides}
        for _ in range(settings.rounds):
            for side in sides:
                done = run_module(MODULES[side], str(weights))
                rounds[side].append({"process": done.seconds, **json.loads(done.output)})
    _check_same(rounds)
    results = {"benchmark": "load", "machine": machine, "threads": threads, "preset": settings.preset, "bytes": size}
    write_json(settings.json, results | {"sides": rounds})

    print(summary(machine))
    print(f"{settings.preset}, {size / 1e6:,.0f} MB of weights, {threads} threads, medians of {settings.rounds}\n")
    rows = [[side, *_figures(found, size)] for side, found in rounds.items()]
    print(table(["", "to the first logits, s", "process, s", "memory / weights"], rows))
    if settings.peer != "none":
        inside, whole = (
            _median(rounds[settings.peer], what) / _median(rounds["npgpt"], what) for what in ("seconds", "process")
        )
        print(
            f"\n{settings.peer} takes {whole:.2f} times as long as npgpt in all, {inside:.2f} times after its imports; "
            f"logits within {TOLERANCE:.0e}"
        )
    return 0


def _median(found, name):
    return median(one[name] for one in found)


def _figures(found, size):
    seconds, process = _median(found, "seconds"), _median(found, "process")
    return [f"{seconds:.2f}", f"{process:.2f}", f"{_median(found, 'memory') / size:.2f}"]


def _check_same(rounds):
    """Raise ProcessFailed unless all logits are those of the first process."""
    all_logits = [np.array(one["logits"]) for found in rounds.values() for one in found]
    for logits in all_logits[1:]:
        if not np.abs(logits - all_logits[0]).max() <= TOLERANCE:
            raise ProcessFailed(f"logits differ by {np.abs(logits - all_logits[0]).max():.1e}: the comparison is void")


if __name__ == "__main__":
    run(main)
