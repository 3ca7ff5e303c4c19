"""python -m bench.bpe TEXT : a byte-pair encoding trained on a text, by npgpt and by Hugging Face's tokenizers.

Each process is fresh, and the sides take turns. The time is that of the training alone, from the text in memory to the
merges: without Python's start, imports and the reading of the file. Nothing is compiled or kept from run to run. Both
sides get the text in the same chunks, cut where no piece is; tokenizers counts them on all threads. The merges must be
the same, or the comparison is void.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.commandline import Parser, check_installed, check_json_path, run, table, write_json
from bench.machine import describe, summary
from bench.processes import ProcessFailed, prepare, run_module
from npgpt.commandline import choice, count, flag
from npgpt.errors import ConfigError

MODULES = {"npgpt": "bench.npgpt_bpe", "tokenizers": "bench.peers.tokenizers_bpe"}


@dataclass(frozen=True)
class Settings:
    vocab_size: int = flag(4096, count(257), "ids, with the bytes and <|endoftext|>", "work")
    rounds: int = flag(5, count(), "processes a side", "work")
    peer: str = flag("tokenizers", choice("tokenizers", "none"), "whom to compare with", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")


def main() -> int:
    parser = Parser("bpe", "Time the training of a byte-pair encoding on a text.")
    parser.add_argument("text", metavar="TEXT", help="a text file")
    parser.add_flags(Settings)
    given = vars(parser.parse_args())
    text = Path(given.pop("text")).resolve()
    settings = Settings(**given)
    if not text.is_file():
        raise ConfigError(f"there is no file {text}")
    if settings.peer != "none":
        check_installed(settings.peer, "tokenizers")
    check_json_path(settings.json)
    machine = describe()
    threads = prepare(settings.threads)
    sides = ["npgpt", *([settings.peer] if settings.peer != "none" else [])]
    rounds = {side: [] for side in sides}
    for _ in range(settings.rounds):
        for side in sides:
            done = run_module(MODULES[side], str(text), str(settings.vocab_size))
            rounds[side].append({**json.loads(done.output), "process": done.seconds, "peak_memory": done.peak_memory})
    if len({one["merges"] for found in rounds.values() for one in found}) > 1:
        raise ProcessFailed("the merges differ: the comparison is void")
    size = text.stat().st_size
    results = {"benchmark": "bpe", "machine": machine, "threads": threads, "bytes": size}
    write_json(settings.json, results | {"vocab_size": settings.vocab_size, "sides": rounds})

    print(summary(machine))
    print(f"{size / 1e6:,.1f} MB, {settings.vocab_size:,} ids, {threads} threads, medians of {settings.rounds}\n")
    rows = [[side, *_figures(found)] for side, found in rounds.items()]
    print(table(["", "training, s", "process, s", "peak of memory, MB"], rows))
    if settings.peer != "none":
        ratio = _median(rounds[settings.peer], "seconds") / _median(rounds["npgpt"], "seconds")
        print(f"\n{settings.peer} takes {ratio:.2f} times as long as npgpt; the merges are the same")
    return 0


def _median(found, name):
    return median(one[name] for one in found)


def _figures(found):
    memory = _median(found, "peak_memory") / 1e6
    return [f"{_median(found, 'seconds'):.3f}", f"{_median(found, 'process'):.2f}", f"{memory:,.0f}"]


if __name__ == "__main__":
    run(main)
