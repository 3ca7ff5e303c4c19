"""The process that compiles kernels: it gives the one that asked the very code that later ones will load."""

import os

import pytest

from .test_jit import ADD_UP, lines

# A training step, large enough that sums run through vectorised loops: every kernel that a run needs, in its last bits.
STEP = """
import hashlib
import numpy as np
from npgpt import GPT, GPTConfig
from npgpt.kernels import compiler
from npgpt.optim import AdamW, clip_grad_norm
model = GPT(GPTConfig(vocab_size=300, block_size=65, n_layer=2, n_head=3, n_embd=99, dropout=0.1), seed=1).train()
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


def test_a_process_that_finds_no_compiled_kernels_computes_the_same_bits(python, tmp_path):
    cold, warm = (python(STEP, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert (cold.returncode, warm.returncode) == (0, 0), cold.stderr + warm.stderr
    (cold_digest, compiled), (warm_digest, compiled_again) = cold.stdout.split(), warm.stdout.split()
    assert (compiled, compiled_again) == ("True", "False")
    assert cold_digest == warm_digest


TWICE = ADD_UP + ADD_UP.replace("float32", "float64")


def test_it_ends_when_idle_and_comes_back_when_needed(python, tmp_path):
    code = (
        "from npgpt.kernels import compiler\ncompiler._IDLE_SECONDS = 0.5\n"
        + ADD_UP
        + "first = compiler._process\nassert first.wait(30) == 0\n"
        + ADD_UP.replace("float32", "float64")
        + "assert compiler._process is not first\n"
    )
    assert lines(python(code, NUMBA_CACHE_DIR=str(tmp_path))) == 1


@pytest.mark.parametrize("broken", ["/nonexistent/python", "/bin/false", "/bin/true", "/bin/cat"])
def test_without_it_kernels_are_compiled_here(python, tmp_path, broken):
    """No such program; one that ends with an error; one that ends with none; one that answers nonsense."""
    if broken != "/nonexistent/python" and not os.path.exists(broken):
        pytest.skip(f"there is no {broken}")
    code = f"import sys; sys.executable = {broken!r}\n" + TWICE
    assert lines(python(code, NUMBA_CACHE_DIR=str(tmp_path))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_has_one_of_its_own(python, tmp_path):
    """And doesn't end its parent's. (Only compiling: once kernels have run, OpenMP forbids them after a fork.)"""
    code = """
import os, sys
from numba import float32, float64, int32
from npgpt.kernels import compiler, sums
def compile(real):
    sums._sum_rows.dispatcher.compile((real[:, ::1], real[::1]))
compile(float32)
parents = compiler._process
child = os.fork()
if child == 0:
    compile(float64)
    assert compiler._process not in (None, parents)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
compile(int32)
assert compiler._process is parents
"""
    assert lines(python(code, NUMBA_CACHE_DIR=str(tmp_path))) == 1
