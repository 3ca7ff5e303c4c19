"""python -m bench.estimates : what npgpt.train says of a run before it begins, beside what the run then takes.

Each run is a process of its own. Its time counts from the line that foretells it to the process's end; the memory is
what was resident at most (ru_maxrss). With a budget, the time counts from the process's start to its end.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.commandline import Parser, check_json_path, run, table, write_json
from bench.machine import ROOT, describe, summary
from bench.processes import ProcessFailed, prepare, run_module, say, start
from npgpt.commandline import count, flag

# Flags of npgpt.train, and how many steps: some 20 to 60 seconds each.
RUNS = {
    "nano": ("--preset=nano", "--max-steps=400"),
    "mini": ("--preset=mini", "--max-steps=120"),
    "mini, 2 batches a step": ("--preset=mini", "--grad-accum=2", "--max-steps=60"),
    "small, batch 2": ("--preset=small", "--batch-size=2", "--max-steps=40"),
    "gpt2, 4 x 256": ("--preset=gpt2", "--batch-size=4", "--context=256", "--max-steps=22", "--sample-every=0"),
}
BUDGETS = {
    "mini in 40 s": (40, "--preset=mini"),
    "auto in 30 s": (30, "--preset=auto"),
}
_MEMORY = re.compile(r"memory: about ([\d,]+) MB")
_TIME = re.compile(r"time:  about (?:(\d+):)?(\d+):(\d\d) for")


@dataclass(frozen=True)
class Settings:
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")


def main() -> int:
    parser = Parser("estimates", "Compare the time and the memory that npgpt.train foretells with what it takes.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    check_json_path(settings.json)
    threads = prepare(settings.threads)
    results = {"benchmark": "estimates", "machine": describe(), "threads": threads, "runs": {}, "budgets": {}}
    with tempfile.TemporaryDirectory() as folder:
        say("a short run, which leaves compiled kernels on the disk")
        run_module(
            "npgpt.train", *_typed(folder, "first", ("--preset=nano", "--max-steps=3")), stderr=subprocess.DEVNULL
        )
        for i, (name, flags) in enumerate(RUNS.items()):
            say(name)
            results["runs"][name] = measure(_typed(folder, f"run{i}", flags))
        for i, (name, (seconds, *flags)) in enumerate(BUDGETS.items()):
            say(name)
            found = measure(_typed(folder, f"budget{i}", (f"--time-budget={seconds}s", *flags)))
            results["budgets"][name] = {"budget": seconds, "seconds": found["process_seconds"]}
    write_json(settings.json, results)

    print(summary(results["machine"]))
    print(f"{threads} threads\n")
    print(table(["", "s foretold", "s taken", "ratio", "MB foretold", "MB taken", "ratio"], _rows(results["runs"])))
    rows = [
        [name, f"{r['seconds']:.1f}", f"{r['seconds'] / r['budget']:.2f}"] for name, r in results["budgets"].items()
    ]
    print("\n" + table(["budget", "s taken", "ratio"], rows))
    return 0


def measure(arguments: list[str]) -> dict[str, float]:
    """Run npgpt.train -> seconds and bytes, foretold and taken. Raises ProcessFailed."""
    began = perf_counter()
    process = start("npgpt.train", *arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    found: dict[str, float] = {}
    said = began
    with process:
        for line in process.stderr:
            if memory := _MEMORY.match(line):
                found["memory_foretold"] = 1e6 * int(memory[1].replace(",", ""))
            if time := _TIME.match(line):
                said = perf_counter()
                found["seconds_foretold"] = 3600 * int(time[1] or 0) + 60 * int(time[2]) + int(time[3])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    ended = perf_counter()
    if process.returncode or len(found) < 2:
        raise ProcessFailed(
            f"npgpt.train {' '.join(arguments)}: exit code {process.returncode}, foretold {sorted(found)}"
        )
    taken = {"seconds": ended - said, "process_seconds": ended - began, "memory": usage.ru_maxrss * 1024.0}
    return found | taken


def _typed(folder, name, flags):
    return [str(ROOT / "data" / "the-verdict.txt"), f"--out={Path(folder) / name}", *flags]


def _rows(runs):
    rows = []
    for name, found in runs.items():
        row = [name]
        for what, unit, form in (("seconds", 1, ".1f"), ("memory", 1e6, ",.0f")):
            foretold, taken = found[f"{what}_foretold"] / unit, found[what] / unit
            row += [format(foretold, form), format(taken, form), f"{taken / foretold:.2f}"]
        rows.append(row)
    return rows


if __name__ == "__main__":
    run(main)
