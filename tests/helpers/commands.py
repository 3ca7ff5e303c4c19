"""Commands run in this process or in one of their own, the form of a user's mistake, and the files of a run.

A mistake ends with exit code 2 and one to three lines on stderr, without a traceback, and nothing has been written.
"""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from npgpt.checkpoints import runs
from npgpt.process import run

TINY = ("--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--context", 8, "--batch-size", 2, "--tokenizer", "byte")
RUN = ("text.txt", *TINY, "--max-steps", 4, "--log-every", 1, "--eval-every", 2, "--eval-batches", 2)
RUN += ("--sample-every", 0)
QUICK = (*TINY, "--max-steps", 2, "--sample-every", 0)
CONSTANT_LR = ("--lr", 1e-3, "--min-lr", 1e-3, "--warmup", 0)  # so that a longer run begins like a shorter one
TIMES = ("tokens_per_second", "seconds", "seconds_left")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def without_compiling(err: str) -> str:
    """What a command says on stderr, but for the line that kernels are compiled: it may be the first to need them."""
    return re.sub(r"npgpt: compiling kernels[^\n]*\n", "", err)


def command(name, *arguments, cwd, stdin=b"") -> Ended:
    """python -m npgpt.NAME ARGUMENTS, in this process, which has NumPy and the kernels loaded already."""
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin)),
        "stdout": io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""),
        "stderr": io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""),
        "argv": [name, *map(str, arguments)],
    }
    main = importlib.import_module(f"npgpt.{name}").main
    with contextlib.chdir(cwd), mock.patch.multiple(sys, **streams), pytest.raises(SystemExit) as end:
        run(main)
    out, err = (streams[s].flush() or streams[s].buffer.getvalue().decode() for s in ("stdout", "stderr"))
    return Ended(end.value.code, out, without_compiling(err))


def process(name, *arguments, cwd, **options) -> Ended:
    """The same in a process of its own."""
    typed = [sys.executable, "-m", f"npgpt.{name}", *map(str, arguments)]
    ended = subprocess.run(typed, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=300, **options)
    return Ended(ended.returncode, ended.stdout, without_compiling(ended.stderr))


def listing(folder) -> dict:
    """{path: its time and content} of all that is below a folder, without runs' locks."""
    return {
        str(path.relative_to(folder)): (path.is_dir() or (path.stat().st_mtime_ns, path.read_bytes()))
        for path in Path(folder).rglob("*")
        if path.name != ".lock"
    }


def assert_refused(ended: Ended, *words):
    assert ended.code == 2, ended
    assert ended.out == ""
    assert 1 <= ended.err.count("\n") <= 3, ended.err
    assert ended.err.endswith("\n")
    assert len(ended.err) < 2000  # whatever a stranger's file has
    assert "Traceback" not in ended.err
    for word in words:
        assert str(word) in ended.err


def refused(name, *arguments, cwd, words=(), run=command, **options) -> None:
    """Assert that the command ends as a mistake, with these words in its message, and has written nothing."""
    before = listing(cwd)
    assert_refused(run(name, *arguments, cwd=cwd, **options), *words)
    assert listing(cwd) == before


def train(folder, *arguments):
    """A run to its end. -> its folder, what it printed"""
    ended = command("train", *arguments, cwd=folder)
    assert ended.code == 0, ended
    name = ended.out.split("--model ")[1].strip()
    return folder / name, ended


def metrics(run, kind=None) -> list[dict]:
    """metrics.jsonl without times and processes, which differ from run to run. Of one kind, or all with their kinds."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    without = TIMES if kind is None else (*TIMES, "kind")
    return [
        {name: value for name, value in line.items() if name not in without}
        for line in lines
        if kind in (None, line["kind"]) and line["kind"] != "process"
    ]


def everything(run) -> dict:
    """All that a run has written, without times and its own name."""
    weights, optimizer, state = runs.load_checkpoint(run / "last.safetensors")
    arrays = {**weights, **{f"optimizer {name}": array for name, array in optimizer.items()}}
    config = json.loads((run / "config.json").read_text())
    del state["progress"]["elapsed"], config["training"]["out"], config["training"]["threads"]
    best = run / "best.safetensors"
    return {
        "arrays": {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()},
        "state": state,
        "config": config,
        "metrics": metrics(run),
        "tokenizer": (run / "tokenizer.json").read_bytes(),
        "best": best.read_bytes() if best.exists() else None,
    }
