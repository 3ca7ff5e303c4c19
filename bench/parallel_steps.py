"""python -m bench.parallel_steps JOB : steps by one process, or by those that mpiexec starts, for bench.parallel.

Numba is imported at once, so the number of threads comes from the environment.
"""

import json
import sys
from types import SimpleNamespace

import numba

from bench.step_timing import time_steps
from npgpt import AdamW, load
from npgpt.signals import StopRequest
from npgpt.training.launch import OneProcess, launch
from npgpt.training.loop import train_step
from npgpt.training.parallel import follow, team_of


def lead(processes: OneProcess) -> int:
    job = json.loads(sys.argv[1])
    processes.threads(None)  # the others wait for it
    model, lr = load(job["weights"]), job["optimizer"]["lr"]
    optimizer = AdamW(model.named_parameters(), **job["optimizer"])
    team = team_of(processes)
    settings = SimpleNamespace(**{name: job[name] for name in ("batch_size", "grad_clip", "matmul_precision")})
    plan = SimpleNamespace(context=job["context"])
    stored = SimpleNamespace(to_compile=dict)
    run = SimpleNamespace(stored=stored, model=model, optimizer=optimizer, settings=settings, plan=plan)
    team.begin(run, StopRequest())

    add_up, told = team.add_up, []

    def timed(loss):  # the end of the backward pass -> every gradient is the sum of all processes
        told[0]("forward and backward")
        total = add_up(loss)
        told[0]("waiting for sums")
        return total

    team.add_up = timed

    def step(ids, targets, done):
        told[:] = [done]
        parts = team.share_out([(ids, targets)], lr)
        loss, _ = train_step(model, optimizer, parts, lr, job["grad_clip"], team)
        done("clipping and AdamW")
        return loss

    print(json.dumps({"threads": numba.get_num_threads(), **time_steps(step, job)}))
    return 0


if __name__ == "__main__":
    sys.exit(launch(lead, follow))
