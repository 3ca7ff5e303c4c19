"""What is set for Numba's threads. tests/kernels/test_cache.py tests what is compiled."""

import os
import subprocess
import sys

import pytest

POLICY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize("asked", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}], ids=str)
def test_how_long_threads_wait_awake(asked):
    """3,000 turns, unless the user says something about it."""
    others = {name: value for name, value in os.environ.items() if name not in POLICY}
    program = f"import os, npgpt.kernels.jit; print({{x: os.environ[x] for x in {POLICY} if x in os.environ}})"
    done = subprocess.run([sys.executable, "-c", program], env={**others, **asked}, capture_output=True, text=True)
    assert done.stdout.strip() == str(asked or {"GOMP_SPINCOUNT": "3000"}), done.stderr


LAUNCH_FROM_THREADS = """
import threading
import numba, numpy as np
from npgpt import kernels

x = np.random.default_rng(0).standard_normal((300, 300), np.float32)
right = [kernels.matmul(x, x), kernels.matmul(x[:100, :50], x[:50, :100])]
wrong = []

def launch():
    for _ in range(100):
        for found, expected in zip((kernels.matmul(x, x), kernels.matmul(x[:100, :50], x[:50, :100])), right):
            if not np.array_equal(found, expected):
                wrong.append(found)

threads = [threading.Thread(target=launch) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(numba.threading_layer(), len(wrong))
"""


def test_threads_launch_kernels_one_after_the_other_where_numba_demands_it(python):
    """With its workqueue, the process would be ended at the first two launches at once, of all sizes."""
    done = python(LAUNCH_FROM_THREADS, NUMBA_THREADING_LAYER="workqueue")
    assert (done.returncode, done.stdout.split()) == (0, ["workqueue", "0"]), done.stderr


def test_without_numbas_compiler_the_plain_kernels_run(python):
    """NUMBA_DISABLE_JIT lets a debugger into them."""
    code = "import numpy as np; from npgpt import ops, Tensor; print(ops.gelu(Tensor(np.zeros(2))).data)"
    done = python(code, NUMBA_DISABLE_JIT="1", NPGPT_KERNELS="numpy")
    assert (done.returncode, done.stdout) == (0, "[0. 0.]\n"), done.stderr
    done = python("from npgpt import kernels", NUMBA_DISABLE_JIT="1")
    assert "Set NPGPT_KERNELS=numpy as well" in done.stderr
