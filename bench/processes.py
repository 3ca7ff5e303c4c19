"""Measured processes: each one is new, and all have the same threads on the same cores."""

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import chain
from statistics import median
from time import perf_counter

from bench.machine import ROOT, cores
from npgpt.errors import ConfigError
from npgpt.process import use_threads


class ProcessFailed(Exception):
    """A measured process failed."""


@dataclass(frozen=True)
class Finished:
    output: str  # what it printed on stdout
    seconds: float  # from its start to its end
    peak_memory: int  # bytes resident at most (ru_maxrss)


def prepare(threads: int | None) -> int:
    """Set the threads (None: one a core), cores and import path of this process and all that it starts.

    Returns the number of threads, which libraries read from the environment when they are imported. Raises ConfigError
    if there are fewer cores.
    """
    if threads is None:
        threads = cores()
    if threads > cores():
        raise ConfigError(f"--threads {threads}: there are {cores()} cores")
    use_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # It would have npgpt's files compiled at every start; those of the peers were when pip installed them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if os.getloadavg()[0] > 0.5:
        say(f"the load average is {os.getloadavg()[0]:.1f}: if something else is running, the figures are worthless")
    return threads


def start(module: str, *arguments: str, folder=ROOT, environment: dict[str, str] | None = None, **pipes):
    """``python -m module arguments...`` in ``folder``, with variables added to the environment -> its Popen."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **(environment or {})}, **pipes)


def run_module(module: str, *arguments: str, **where) -> Finished:
    """Start a module and wait for its end; its stderr passes through. Raises ProcessFailed."""
    began = perf_counter()
    process = start(module, *arguments, stdout=subprocess.PIPE, **where)
    with process:
        try:
            output = process.stdout.read().decode()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = perf_counter() - began
    if process.returncode:
        raise ProcessFailed(f"python -m {module} ended with exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(output, seconds, usage.ru_maxrss * unit)


def speedup(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, float]:
    """Seconds of two sides, a list for each round -> how many times as fast ours is: in all, and in single rounds."""
    ratios = [median(b) / median(a) for a, b in zip(ours, theirs, strict=True)]
    ratio = median(chain(*theirs)) / median(chain(*ours))
    return {"ratio": ratio, "lowest_ratio": min(ratios), "highest_ratio": max(ratios)}


def say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)
