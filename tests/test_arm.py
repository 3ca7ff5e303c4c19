"""On an ARM machine, which tests/emulated_arm.sh makes: kernels in NEON, and a run from its text to a sample."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = os.environ.get("NPGPT_ARM")
ROOT = Path(__file__).resolve().parents[1]
RUN = ["--tokenizer", "byte", "--preset", "nano", "--context", "32", "--batch-size", "2", "--max-steps", "4"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="NPGPT_ARM names no ARM machine's Python: tests/emulated_arm.sh makes one"),
]


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """arm(argument, ...) runs Python there. -> what it printed, stderr first"""
    cache = tmp_path_factory.mktemp("arm")

    def run(*arguments):
        own = {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache), "XDG_CACHE_HOME": str(cache)}
        command = [PYTHON, *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, **own}, cwd=cache, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr + done.stdout

    return run


def test_the_unit_is_neon(arm):
    assert arm("-c", "from npgpt.kernels.machine.cpu import UNIT; print(UNIT.name)") == "neon\n"


@pytest.mark.parametrize("name", ["product", "matmul", "attention", "few_bits", "packed", "decode", "softmax", "gelu"])
def test_kernels(arm, name):
    arm("-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / f"tests/kernels/test_{name}.py")


def test_a_run_has_the_losses_of_this_machine_and_its_model_is_sampled_from(arm, tmp_path):
    text = ROOT / "data" / "the-verdict.txt"
    log = arm("-m", "npgpt.train", text, *RUN, "--out", tmp_path / "there")
    assert "products in float32, NEON" in log
    assert "Warning" not in log
    here = subprocess.run(
        [sys.executable, "-m", "npgpt.train", text, *RUN, "--out", tmp_path / "here"], capture_output=True, text=True
    )
    losses = [re.findall(r"loss (\d+\.\d+)", found) for found in (log, here.stderr + here.stdout)]
    assert len(losses[0]) >= 4
    assert losses[0] == losses[1]
    assert arm("-m", "npgpt.sample", "--model", tmp_path / "there", "--max-new-tokens", 5, "--weights", "int8")
