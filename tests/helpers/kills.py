"""python -m helpers.kills FOLDER COUNT: train in FOLDER, killed COUNT times with SIGKILL, and look at each run then.

Half of the kills come at a random line of the code that writes files, as if the machine had failed there: the process
kills itself. The others come at a random time from outside. Every tenth process begins a new run, the others resume
one. Each is forked from this process, which has everything loaded, so that a kill costs a tenth of a second.

After each kill all of the run's states must be whole, and the newest must be that of the last step that was logged, or
of the one before it: it saves after each step. Prints how many of the kills came within a save.
"""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

from npgpt import process, train
from npgpt.checkpoints import run_states, runs, safetensors
from npgpt.checkpoints.shared import atomic
from npgpt.training import begin, execute, folder, run, saver  # noqa: F401 - loaded before the forks

SAVING = {module.__file__ for module in (runs, safetensors, atomic, saver, folder)}
TYPED = "text.txt --n-layer 1 --n-head 2 --n-embd 8 --context 8 --batch-size 2 --tokenizer byte --dropout 0.2"
TYPED += " --lr 1e-3 --min-lr 1e-3 --warmup 0 --decay-steps 1 --log-every 1 --eval-every 2 --eval-batches 1"
TYPED += " --sample-every 0 --keep 2 --max-steps"
LONG = [*TYPED.split(), "1000000"]
saver.SAVE_EVERY = saver.PART = 0


def main():
    os.chdir(sys.argv[1])
    count, rng, current, within, number = int(sys.argv[2]), random.Random(0), None, 0, 0
    for kill in range(count):
        if kill % 10 == 0 or not is_run(current):
            number += 1
            current = Path("runs") / str(number)
            typed = [*LONG, "--out", str(current)]
        else:
            typed = ["--resume", str(current)]
        by_itself = kill % 2 == 0
        if by_itself:
            within += 1
            killed(typed, line=rng.randrange(1, 3000))
        else:
            killed(typed, after=rng.uniform(0.0, 0.2))
        check(current)
    while not is_run(current):
        current = Path("runs") / "whole"
        killed([*LONG, "--out", str(current)], after=0.3)
    step = check(current) + 2
    ended(["--resume", str(current), "--max-steps", str(step)])
    ended([*LONG[:-1], str(step), "--out", "unbroken"])
    found, expected = (runs.load_checkpoint(Path(path) / runs.LAST_FILE) for path in (current, "unbroken"))
    for arrays, others in zip(found[:2], expected[:2], strict=True):
        assert {name: a.tobytes() for name, a in arrays.items()} == {name: a.tobytes() for name, a in others.items()}
    leftovers = [path.name for path in current.iterdir() if path.name.endswith("npgpt-tmp")]
    assert not leftovers, leftovers
    print(f"{count} kills, {within} of them within a save; as unbroken at step {step}")


def is_run(folder):
    return folder is not None and (folder / runs.CONFIG_FILE).exists()


def killed(typed, line=None, after=None):
    """Start a training process that is killed at a line of the code that saves, or so many seconds later."""
    child = os.fork()
    if child == 0:
        silently(typed, line)
        os._exit(3)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{typed} ended with {status} before it was killed"


def ended(typed):
    child = os.fork()
    if child == 0:
        os._exit(silently(typed, None))
    assert os.waitpid(child, 0)[1] == 0, typed


def silently(typed, line):
    sys.argv = ["train", *typed]
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    if line is not None:
        sys.settrace(killing_at(line))
    try:
        process.run(train.main)
    except SystemExit as end:
        return end.code
    finally:
        sys.settrace(None)
        if sys.stderr.getvalue():
            Path("stderr.txt").write_text(sys.stderr.getvalue())


def killing_at(line):
    """A trace function that kills this process at the line-th line that runs in the modules that save."""
    left = line

    def local(frame, event, argument):
        nonlocal left
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return local

    return lambda frame, event, argument: local if frame.f_code.co_filename in SAVING else None


def check(current):
    """All states of a run are whole, and the newest is at most one step old -> its step. What is no run is removed."""
    if not is_run(current):
        shutil.rmtree(current, ignore_errors=True)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, _, _, state = run_states.load_newest(current)
    for path in run_states.state_files(current):
        runs.load_checkpoint(path)
    if (current / runs.BEST_FILE).exists():
        run_states.open_run(current, "best")
    assert len(run_states.state_files(current)) <= 4, "states pile up"
    metrics = current / runs.METRICS_FILE
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    logged = [json.loads(line)["step"] for line in lines if line.endswith("\n") and '"train"' in line]
    assert state["step"] >= max(logged, default=0) - 1, (state["step"], logged[-3:])
    return state["step"]


if __name__ == "__main__":
    main()
