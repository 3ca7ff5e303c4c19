"""Compiling ahead by several processes; and that no bit depends on who compiled, when, or on the number of threads."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest
from conftest import ROOT, TEXT
from helpers.commands import TINY

from npgpt.kernels import ahead, progress

# Two training steps, large enough that sums run through vectorised loops: every kernel of a run, to its last bits.
STEPS = """
import hashlib
import numpy as np
from npgpt import GPT, GPTConfig
from npgpt.kernels import progress
from npgpt.optim import AdamW, clip_scale, grad_norm
from npgpt.precompile import compile_for_training
config = GPTConfig(vocab_size=300, block_size=65, n_layer=2, n_head=3, n_embd=99, dropout=0.1)
AHEAD
model = GPT(config, seed=1).train()
optimizer = AdamW(model.named_parameters())
ids = np.random.default_rng(1).integers(300, size=(4, 66))
for _ in range(2):
    optimizer.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    optimizer.step(clip_scale(grad_norm(model.trainable_parameters()), 1e-3))
digest = hashlib.sha256(loss.data.tobytes())
for _, p in model.named_parameters():
    digest.update(p.data.tobytes())
print(digest.hexdigest(), progress.seconds > 0)
"""
AHEAD = """
compile_for_training(config, 4, 65, 0)
assert progress.seconds > 0
progress.announce = None  # nothing is left to be compiled
"""


def test_a_first_run_computes_the_same_bits_as_later_ones(tmp_path):
    """It compiles each kernel as it is met, on 2 threads, or all ahead, on 4; the later ones have 1 thread and 2."""

    def start(ahead, cache, threads):
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / cache), "NUMBA_NUM_THREADS": threads}
        return subprocess.Popen(
            [sys.executable, "-c", STEPS.replace("AHEAD", ahead)],
            env={**os.environ, **environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = [start("", "met", "2"), start(AHEAD, "ahead", "4")]
    digests, compiled = zip(*(process.communicate()[0].split() for process in first), strict=True)
    assert compiled == ("True", "True")
    later = [start("", "met", "1"), start("", "ahead", "2")]
    again, compiled = zip(*(process.communicate()[0].split() for process in later), strict=True)
    assert compiled == ("False", "False")
    assert len({*digests, *again}) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Kernel:
    """Stands for a jitted function and its cache: ``compile`` takes no time."""

    cache_path = "somewhere"
    compiled: ClassVar[list[str]] = []

    def __init__(self, name):
        self.name, self._cache = name, self

    def holds(self, types):
        return self.name in self.compiled

    def compile(self, types):
        self.compiled.append(self.name)


NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def kernels(monkeypatch):
    """Five kernels to be compiled by processes that do what ``kernels.code`` says, and a terminal that shows it."""
    table = {name: (Kernel(name), ()) for name in NAMES}
    started = []

    def start(*arguments):
        process = subprocess.Popen([sys.executable, "-c", ahead.code])
        started.append((process, arguments))
        return process

    monkeypatch.setattr(Kernel, "compiled", [])
    monkeypatch.setattr(ahead, "signatures", lambda *dtypes: table)
    monkeypatch.setattr(ahead, "_start", start)
    monkeypatch.setattr(ahead, "code", "import time; time.sleep(60)", raising=False)
    monkeypatch.setattr(ahead, "started", started, raising=False)
    monkeypatch.setattr(ahead.numba, "get_num_threads", lambda: 2)
    monkeypatch.setattr(progress, "_announced", False)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=Terminal()))
    return ahead


def test_each_process_compiles_what_it_reads_and_skips_what_is_there(kernels, monkeypatch):
    Kernel.compiled = ["b"]
    numbers, write_end = os.pipe()
    os.write(write_end, bytes([3, 1, 4]))
    os.close(write_end)
    with open(numbers) as stdin:
        monkeypatch.setattr(ahead.sys, "stdin", stdin)
        ahead.work("float32", "float32", *NAMES)
    assert Kernel.compiled == ["b", "d", "e"]


def test_it_ends_when_all_is_compiled_by_whomever(kernels, monkeypatch):
    monkeypatch.setattr(ahead, "LONGEST", ("d", "e"))
    Kernel.compiled = ["b"]
    kernels.compile_ahead(set(NAMES), stop=lambda: Kernel.compiled.extend("acde"))
    assert [names for _, (_, _, _, *names) in kernels.started] == [["d", "e", "a", "c"]] * 2
    assert all(process.returncode for process, _ in kernels.started), "still running"
    shown = progress.sys.stderr.getvalue()
    assert shown.startswith("npgpt: compiling kernels (once, then cached): 0 of 4, 0 s\r")
    assert shown.endswith("npgpt: compiling kernels (once, then cached): 4 of 4, 0 s\n")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("end", ["stop", "interrupt"])
def test_it_can_be_ended_early(kernels, end):
    """All processes are ended, and what is printed then has its own line."""
    asked = []

    def stop():
        asked.append(1)
        if end == "interrupt" and len(asked) == 3:
            raise KeyboardInterrupt
        return len(asked) == 3

    with pytest.raises(KeyboardInterrupt) if end == "interrupt" else contextlib.nullcontext():
        kernels.compile_ahead(NAMES, stop)
    assert len(asked) == 3
    assert all(process.returncode for process, _ in kernels.started), "still running"
    assert progress.sys.stderr.getvalue().endswith(" s\n")


def test_of_many_cores_some_compile(kernels, monkeypatch):
    """A process takes half a gigabyte."""
    kernels.code = ""
    monkeypatch.setattr(kernels.numba, "get_num_threads", lambda: 100)
    for most, started in ((3, 3), (50, len(NAMES))):
        monkeypatch.setattr(kernels, "MAX_PROCESSES", most)
        kernels.started.clear()
        kernels.compile_ahead(NAMES)
        assert len(kernels.started) == started


def test_processes_that_fail_leave_it_to_the_first_call(kernels):
    kernels.code = "raise SystemExit(1)"
    kernels.compile_ahead(NAMES)
    assert [process.returncode for process, _ in kernels.started] == [1, 1]


def test_processes_that_cannot_be_started_leave_it_to_the_first_call(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "_start", lambda *arguments: (_ for _ in ()).throw(OSError(12, "no memory")))
    kernels.compile_ahead(NAMES)
    assert progress.sys.stderr.getvalue().endswith(" s\n")


def test_without_a_terminal_one_line_is_printed(kernels):
    kernels.code = ""
    progress.sys.stderr = io.StringIO()
    kernels.compile_ahead(NAMES)
    progress.announce()
    assert progress.sys.stderr.getvalue() == (
        "npgpt: compiling kernels (once, under half a minute; cached for the next start)\n"
    )


@pytest.mark.parametrize(("compiled", "path"), [(NAMES, "somewhere"), ([], None)])
def test_with_nothing_to_compile_or_no_folder_for_it_no_process_is_started(kernels, monkeypatch, compiled, path):
    Kernel.compiled = compiled
    monkeypatch.setattr(Kernel, "cache_path", path)
    kernels.compile_ahead(NAMES)
    assert kernels.started == []
    said = progress.sys.stderr.getvalue()
    assert said.startswith("npgpt: compiling kernels (at each start: ") if path is None else said == ""


def test_the_processes_find_the_package_where_this_one_has(python, tmp_path):
    """Through a link, and in a folder whose name has what separates the folders of PYTHONPATH."""
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "npgpt").symlink_to(ROOT / "npgpt", target_is_directory=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'a:b')!r})\n"
        "from npgpt.kernels import ahead, progress, signatures\n"
        "import numpy as np\n"
        "progress.announce = lambda *_, **__: None\n"
        "ahead.compile_ahead(['embedding_backward'])\n"
        "kernel, types = signatures.signatures(*[np.dtype(np.float32)] * 2)['embedding_backward']\n"
        "print(ahead.__file__, kernel._cache.holds(types))"
    )
    done = python(code, PYTHONPATH=None, PYTHONSAFEPATH="1", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout == f"{tmp_path}/a:b/npgpt/kernels/ahead.py True\n", done.stderr


def test_a_run_that_is_stopped_while_it_compiles(tmp_path):
    """It ends at once and in order, and so do the processes that compile."""
    (tmp_path / "text.txt").write_text(TEXT)
    typed = [sys.executable, "-m", "npgpt.train", "text.txt", *map(str, TINY)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(typed, cwd=tmp_path, env=environment, **pipes) as training:
        for line in training.stderr:
            if line.startswith("npgpt: compiling kernels"):
                break
        training.send_signal(signal.SIGINT)
        _, err = training.communicate(timeout=30)
    assert training.returncode == 130  # 128 and the signal's number
    assert "stopped after step 0; resume with" in err
    assert "loss" not in err
    assert not list((tmp_path / "cache").rglob("*cross_entropy*.kernel"))  # no loss was computed to check the weights
