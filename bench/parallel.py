"""python -m bench.parallel : training steps by several processes on this machine, beside one with as many threads.

A step is the same work on both sides: the same batch, divided among the processes or whole. The losses must agree.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.commandline import Parser, check_json_path, run, table, write_json
from bench.machine import ROOT, describe, summary
from bench.processes import ProcessFailed, prepare, run_module, say, speedup
from bench.train_step import PRESETS, largest_difference
from bench.train_step import Settings as StepSettings
from npgpt.commandline import choice, count, flag
from npgpt.config import MATMUL_PRECISIONS
from npgpt.errors import ConfigError

TOLERANCE = 1e-3  # of losses, relatively: sums in another order, as in bench.train_step


@dataclass(frozen=True)
class Settings:
    preset: str = flag("gpt2", choice(*PRESETS), "a model's size", "work")
    batch_size: int | None = flag(None, count(), "windows a batch (default: 4; 12 for nanogpt-cpu)", "work")
    context: int | None = flag(None, count(), "tokens a window (default: 256, or the preset's if less)", "work")
    steps: int = flag(10, count(), "counted steps a run", "work")
    warmup: int = flag(3, count(), "steps before them, which compile and are not counted", "work")
    rounds: int = flag(3, count(), "runs a side", "work")
    processes: int = flag(2, count(2), "processes", "work")
    threads: int | None = flag(None, count(), "threads in all (default: one a core)", "work")
    matmul_precision: str = flag("highest", choice(*MATMUL_PRECISIONS), "of matrix products", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")

    def job(self) -> dict:
        """The work, as the measured processes read it."""
        names = ("preset", "batch_size", "context", "steps", "warmup", "matmul_precision")
        return StepSettings(**{name: getattr(self, name) for name in names}).job()


def main() -> int:
    parser = Parser("parallel", "Time a training step of several processes, beside one with as many threads in all.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    job, n = settings.job(), settings.processes
    check_json_path(settings.json)
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        raise ConfigError("there is no mpiexec here: pip install 'npgpt[mpi]'")
    machine = describe()
    threads = prepare(settings.threads)
    if threads % n:
        raise ConfigError(f"--threads {threads} can't be divided among {n} processes")
    sides = {"one process": [], f"{n} processes": []}
    with tempfile.TemporaryDirectory() as folder:
        job["weights"] = str(Path(folder) / "weights.safetensors")
        run_module("bench.initial_weights", json.dumps(job["model"]), job["weights"])
        for i in range(settings.rounds):
            for (side, reports), launcher in zip(sides.items(), ([], [mpiexec, "-n", str(n)]), strict=True):
                reports.append(_run(launcher, job, threads // n if launcher else threads))
                say(f"round {i + 1} of {settings.rounds}: {side} {median(reports[-1]['seconds']):.4g} s a step")
    one, several = sides.values()
    difference = max(largest_difference(a["losses"], b["losses"]) for a, b in zip(one, several, strict=True))
    results = {"benchmark": "parallel", "machine": machine, "threads": threads, "job": job, "sides": sides}
    results["loss_difference"] = difference
    results["speed"] = speedup([r["seconds"] for r in several], [r["seconds"] for r in one])
    write_json(settings.json, results)
    if difference > TOLERANCE:
        print(f"VOID: the losses differ by {difference:.2g} of their size")
        return 1
    tokens = job["batch_size"] * job["context"]
    seconds = {side: median(s for report in reports for s in report["seconds"]) for side, reports in sides.items()}
    phases = {
        side: [median(s for report in reports for s in report["phases"][phase]) for phase in reports[0]["phases"]]
        for side, reports in sides.items()
    }
    rows = [[side, *(f"{x:.4g}" for x in (s, *phases[side])), f"{tokens / s:,.0f}"] for side, s in seconds.items()]
    speed = results["speed"]
    print(summary(machine))
    print(f"{settings.preset}, batch {job['batch_size']}, context {job['context']}, {threads} threads in all\n")
    print(table(["", "s/step", *(f"{phase}, s" for phase in one[0]["phases"]), "tokens/s"], rows))
    print(f"\n{n} processes have {speed['ratio']:.3f} of one's speed ({speed['lowest_ratio']:.3f} to "
          f"{speed['highest_ratio']:.3f}); the losses differ by at most {difference:.1g} of their size")  # fmt: skip
    return 0


def _run(launcher, job, threads) -> dict:
    """Run steps in new processes -> what the first one reported. Raises ProcessFailed."""
    environment = {name: str(threads) for name in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    command = [*launcher, sys.executable, "-m", "bench.parallel_steps", json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ProcessFailed(f"{' '.join(command[:-1])} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    run(main)
