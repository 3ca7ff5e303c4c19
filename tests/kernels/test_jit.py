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
