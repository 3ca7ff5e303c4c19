"""kill -9 at any moment of a run, most of them while it writes: nothing is lost but the step that was not saved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, as POSIX does")
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kills(folder, count):
    tests = Path(__file__).resolve().parents[1]
    typed = [sys.executable, "-m", "helpers.kills", str(folder), str(count)]
    alone = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # threads don't fork
    path = os.pathsep.join([str(tests), str(tests.parent)])
    environment = {**os.environ, **alone, "NPGPT_KERNELS": "numpy", "PYTHONPATH": path}
    done = subprocess.run(typed, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{count} kills, {count // 2} of them within a save; as unbroken at step" in done.stdout
