"""The process that compiles kernels: it gives the one that asked the very code that later ones will load."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from conftest import ROOT, TEXT
from helpers.commands import TINY

from npgpt.kernels import compiler

from .test_jit import ADD_UP, lines

# A training step, large enough that sums run through vectorised loops: every kernel that a run needs, in its last bits.
STEP = """
import hashlib
import numpy as np
from npgpt import GPT, GPTConfig
from npgpt.kernels import compiler
from npgpt.optim import AdamW, clip_grad_norm
config = GPTConfig(vocab_size=300, block_size=65, n_layer=2, n_head=3, n_embd=99, dropout=0.1)
AHEAD
model = GPT(config, seed=1).train()
optimizer = AdamW(model.named_parameters())
ids = np.random.default_rng(1).integers(300, size=(4, 66))
for _ in range(2):
    optimizer.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    clip_grad_norm([p for _, p in model.named_parameters()], 1.0)
    optimizer.step()
digest = hashlib.sha256(loss.data.tobytes())
for _, p in model.named_parameters():
    digest.update(p.data.tobytes())
print(digest.hexdigest(), compiler.waited > 0)
"""
AHEAD = """
from npgpt.precompile import compile_for_training
compile_for_training(config, 4, 65, 0)
assert compiler.waited
compiler.compile_elsewhere = None  # nothing is left for it
"""


def test_a_process_that_finds_no_compiled_kernels_computes_the_same_bits(python, tmp_path):
    """Whether it has them compiled one by one or several at a time."""
    runs = (("one", ""), ("one", ""), ("several", AHEAD), ("several", ""))
    ended = [
        python(STEP.replace("AHEAD", ahead), NUMBA_CACHE_DIR=str(tmp_path / cache), NUMBA_NUM_THREADS="2")
        for cache, ahead in runs
    ]
    assert [done.returncode for done in ended] == [0] * 4, [done.stderr for done in ended]
    digests, compiled = zip(*(done.stdout.split() for done in ended), strict=True)
    assert compiled == ("True", "False", "True", "False")
    assert len(set(digests)) == 1


ADD_UP_AHEAD = """
import numpy as np
from npgpt import kernels
from npgpt.kernels.jit import compile_noted, noting
with noting() as notes:
    kernels.sum_rows(np.ones((3, 2), np.float32)), kernels.sum_of_squares([np.ones(3, np.float32)])
compile_noted(notes)
"""
TWICE = ADD_UP + ADD_UP.replace("float32", "float64")


def test_it_ends_when_idle_and_comes_back_when_needed(python, tmp_path):
    code = (
        "from npgpt.kernels import compiler\ncompiler._IDLE_SECONDS = 0.5\n"
        + ADD_UP
        + "first = compiler._second.popen\nassert first.wait(30) == 0\n"
        + ADD_UP.replace("float32", "float64")
        + "assert compiler._second.popen is not first\n"
    )
    assert lines(python(code, NUMBA_CACHE_DIR=str(tmp_path))) == 1


@pytest.mark.parametrize("ahead", ["", ADD_UP_AHEAD])
@pytest.mark.parametrize("broken", ["/nonexistent/python", "/bin/false", "/bin/true", "/bin/cat"])
def test_without_it_kernels_are_compiled_here(python, tmp_path, broken, ahead):
    """No such program; one that ends with an error; one that ends with none; one that answers nonsense."""
    if broken != "/nonexistent/python" and not os.path.exists(broken):
        pytest.skip(f"there is no {broken}")
    code = f"import sys; sys.executable = {broken!r}\n" + ahead + TWICE
    assert lines(python(code, NUMBA_CACHE_DIR=str(tmp_path))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_has_one_of_its_own(python, tmp_path):
    """And doesn't end its parent's. (Only compiling: once kernels have run, OpenMP forbids them after a fork.)"""
    code = """
import os, sys
from numba import float32, float64, int32
from npgpt.kernels import compiler
from npgpt.kernels import reductions as sums
def compile(real):
    sums._sum_rows.dispatcher.compile((real[:, ::1], real[::1]))
compile(float32)
parents = compiler._second.popen
child = os.fork()
if child == 0:
    compile(float64)
    assert compiler._second.popen not in (None, parents)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
compile(int32)
assert compiler._second.popen is parents
"""
    assert lines(python(code, NUMBA_CACHE_DIR=str(tmp_path))) == 1


# Several at a time


def test_what_was_compiled_ahead_is_not_compiled_again(python, tmp_path):
    """By another process, or by the next call; and the processes are gone, but for the one that is kept."""
    code = ADD_UP_AHEAD + "from npgpt.kernels import compiler\n"
    once = "assert compiler._second.popen.poll() is None\nwaited = compiler.waited\ncompile_noted(notes)\n"
    once += "assert compiler.waited == waited > 0\n"
    assert lines(python(code + once + ADD_UP, NUMBA_CACHE_DIR=str(tmp_path))) == 1
    assert lines(python(code + "assert compiler.waited == 0\n" + ADD_UP, NUMBA_CACHE_DIR=str(tmp_path))) == 0


MADE = []


class FakeProcess:
    """Answers at once, or as it is told."""

    def __init__(self, answer=b"compiled\n"):
        self.answer, self.asked, self.ended = answer, [], False
        MADE.append(self)

    def ask(self, py_func, signature):
        self.asked.append((py_func, signature))
        return self.answer() if callable(self.answer) else self.answer

    def end(self):
        self.ended = True


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def fake(monkeypatch):
    """The compiler with processes that do nothing, which are in MADE, and a terminal, fake.sys.stderr."""
    MADE.clear()
    monkeypatch.setattr(compiler, "_Process", FakeProcess)
    monkeypatch.setattr(compiler, "_second", FakeProcess())
    monkeypatch.setattr(compiler, "_useful", True)
    monkeypatch.setattr(compiler, "_announced", False)
    monkeypatch.setattr(compiler, "_MOST", 4)
    monkeypatch.setattr(compiler, "waited", 0.0)
    monkeypatch.setattr(compiler, "sys", SimpleNamespace(stderr=Terminal()))
    return compiler


def short():
    return 1


def long(x):
    return x * x + x * x + x


def longer(x, y):
    return long(x) * long(y) + long(y) * x * y - y


WANTED = [(short, 1), (long, 1), (longer, 1), (long, 2), (short, 2), (longer, 2), (longer, 3)]


@pytest.mark.parametrize(("processes", "made"), [(1, 1), (2, 2), (9, 3)])
def test_all_signatures_of_a_function_go_to_one_process(fake, processes, made):
    fake.compile_all(WANTED, processes)
    assert len(MADE) == made
    asked = [request for process in MADE for request in process.asked]
    assert sorted(asked, key=str) == sorted(WANTED, key=str)
    for function in (short, long, longer):
        assert sum(function in [f for f, _ in process.asked] for process in MADE) == 1
    assert [process.ended for process in MADE] == [False] + [True] * (made - 1)


def test_long_functions_come_first(fake):
    fake.compile_all(WANTED, 1)
    assert MADE[0].asked == [
        (longer, 1),
        (longer, 2),
        (longer, 3),
        (long, 1),
        (long, 2),
        (short, 1),
        (short, 2),
    ]


def test_nothing_to_compile_is_not_mentioned(fake):
    fake.compile_all([], 2)
    assert fake.sys.stderr.getvalue() == ""


def test_a_terminal_shows_one_line_which_others_may_write_over(fake):
    fake.compile_all(WANTED, 2)
    shown = fake.sys.stderr.getvalue()
    assert shown.startswith("npgpt: compiling kernels (once, then cached): 0 of 7, 0 s\r")
    assert shown.endswith("npgpt: compiling kernels (once, then cached): 7 of 7, 0 s\n")
    assert shown.count("\n") == 1
    fake.announce()
    assert fake.sys.stderr.getvalue() == shown
    longest = "npgpt: compiling kernels (once, then cached): 100 of 100, 1000 s"
    assert len(longest) < 80


def test_elsewhere_there_is_the_line_at_the_start_alone(fake):
    fake.sys.stderr = io.StringIO()
    fake.compile_all(WANTED, 2)
    assert fake.sys.stderr.getvalue() == (
        "npgpt: compiling kernels (once, under half a minute; cached for the next start)\n"
    )


@pytest.mark.parametrize("end", ["stop", "interrupt"])
def test_it_can_be_ended_early(fake, end):
    """All processes are, as theirs answers would come to the next question; what is printed then has its own line."""
    blocked = threading.Event()
    fake._second.answer = lambda: blocked.wait(5) and b""
    asked = []

    def stop():
        asked.append(1)
        if len(asked) < 3:
            return False
        if end == "interrupt":
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt) if end == "interrupt" else contextlib.nullcontext():
        fake.compile_all(WANTED, 2, stop)
    assert all(process.ended for process in MADE)
    assert fake.sys.stderr.getvalue().endswith(" s\n")
    asked = sum(len(process.asked) for process in MADE)
    blocked.set()
    assert asked < len(WANTED)


@pytest.mark.parametrize("answer", [b"", lambda: 1 / 0])
def test_a_process_that_dies_leaves_the_rest_to_the_others(fake, answer):
    fake._second.answer = answer
    fake.compile_all(WANTED, 2)
    assert len(MADE[0].asked) <= 1
    assert len(MADE[1].asked) >= 4
    fake.compile_all(WANTED, 1)  # none is left


def test_a_run_that_is_stopped_while_it_compiles(python, tmp_path):
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
    assert training.returncode == 0
    assert "stopped after step 0; go on with" in err
    assert "loss" not in err
