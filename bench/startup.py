"""python -m bench.startup : how long a user waits, from --help to the first sampled text of a first run.

Cold means that no kernel has been compiled yet: Numba's cache is an empty temporary folder. The operating system's
cache of files is left alone.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.commandline import Parser, check_json_path, run, table, write_json
from bench.machine import ROOT, describe, summary
from bench.processes import ProcessFailed, prepare, run_module, say, start
from npgpt.commandline import choice, count, flag
from npgpt.config import PRESETS
from npgpt.errors import ConfigError

FIRST_STEP = re.compile(r"\s*1/\d+  loss ")  # how npgpt.train's line about its first step begins


@dataclass(frozen=True)
class Settings:
    text: str = flag(str(ROOT / "data" / "the-verdict.txt"), str, "what to train on", "work", metavar="PATH")
    helps: int = flag(10, count(), "how often --help is asked for", "work")
    starts: int = flag(5, count(), "how many warm starts", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")
    preset: str | None = flag(None, choice(*PRESETS), "instead of the default run's, for a trial", "work")
    max_steps: int | None = flag(None, count(), "instead of the default run's, for a trial", "work")

    def training(self) -> list[str]:
        """The arguments of npgpt.train."""
        changes = {"--preset": self.preset, "--max-steps": self.max_steps}
        return [str(Path(self.text).resolve()), *(f"{name}={value}" for name, value in changes.items() if value)]


def main() -> int:
    parser = Parser("startup", "Time --help, cold and warm starts, and the default run up to a sampled text.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    check_json_path(settings.json)
    if not Path(settings.text).is_file():
        raise ConfigError(f"--text {settings.text}: there is no such file")
    machine = describe()
    threads = prepare(settings.threads)
    results = {"benchmark": "startup", "machine": machine, "threads": threads, "training": settings.training()}
    results["seconds"] = seconds = measure(settings)
    write_json(settings.json, results)

    print(summary(results["machine"]))
    print(f"npgpt.train {' '.join([Path(settings.text).name, *settings.training()[1:]])}, {threads} threads\n")
    print(table(["", "seconds"], [[name, f"{median(values):.2f}"] for name, values in seconds.items()]))
    return 0


def measure(settings: Settings) -> dict[str, list[float]]:
    """{what: seconds of each time}"""
    seconds = {}
    for command in ("npgpt.sample", "npgpt.train"):
        run_module(command, "--help")  # the first time, Python may have to compile
        seconds[f"{command} --help"] = [run_module(command, "--help").seconds for _ in range(settings.helps)]

    training = settings.training()
    with tempfile.TemporaryDirectory() as folder:
        say("what compiling takes, in a run of one step")
        output = run_module("bench.compile_time", *training, "--max-steps=1", **_in(folder)).output
        seconds["compiling, cold"] = [json.loads(output.splitlines()[-1])["compile_seconds"]]

    with tempfile.TemporaryDirectory() as folder:
        say("the whole run, cold")
        first_step, whole = train(training, folder)
        sample = run_module("npgpt.sample", **_in(folder)).seconds
        seconds["cold start to the first step"] = [first_step]
        seconds["cold start to the end of training"] = [whole]
        seconds["npgpt.sample"] = [sample]
        seconds["cold start to a sampled text, both commands"] = [whole + sample]
        say("warm starts")
        starts = [train(training, folder, only_first_step=True)[0] for _ in range(settings.starts)]
        seconds["warm start to the first step"] = starts
    return seconds


def train(arguments: list[str], folder: str, only_first_step: bool = False) -> tuple[float, float]:
    """npgpt.train in a process -> seconds until it reports its first step, and until its end."""
    began, first_step = perf_counter(), None
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with start("npgpt.train", *arguments, **_in(folder), **pipes) as process:
        for line in process.stderr:
            now = perf_counter()
            sys.stderr.write(line)
            if first_step is None and FIRST_STEP.match(line):
                first_step = now - began
                if only_first_step:
                    process.kill()
    if first_step is None or (process.returncode and not only_first_step):
        raise ProcessFailed(f"npgpt.train ended with exit code {process.returncode}")
    return first_step, perf_counter() - began


def _in(folder):
    """The working folder of a process, with a cache of compiled kernels in it."""
    return {"folder": folder, "environment": {"NUMBA_CACHE_DIR": str(Path(folder) / "cache")}}


if __name__ == "__main__":
    run(main)
