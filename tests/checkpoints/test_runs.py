"""Files of runs: checkpoints that come back exactly, damage that is noticed, and a kill at any moment."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from checkpoints.small_states import CONFIG, arrays, arrays_of, assert_same, flip
from npgpt.checkpoints import runs
from npgpt.checkpoints.safetensors import read_safetensors
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings


def test_config(tmp_path):
    asked = {"lr": 3e-4, "texts": ["a.txt", "é.txt"], "patience": None, "seed": 2**70}
    plan = TrainSettings().resolve(9, 6, "é")
    write_run_config(tmp_path, CONFIG, asked, plan)
    assert runs.read_run_config(tmp_path) == (CONFIG, asked, asdict(plan))
    assert runs.is_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert not runs.is_run(tmp_path)
    with pytest.raises(CheckpointError, match="can't be written"):
        write_run_config(tmp_path / "none", CONFIG, asked, plan)


BAD_CONFIGS = {
    "of another program": ({"model_type": "gpt2"}, "format is not 'npgpt run'"),
    "model a list": ({"format": "npgpt run", "model": [], "training": {}}, "model: a JSON object was expected"),
    "unknown field": (
        {"format": "npgpt run", "model": {"n_experts": 8}, "training": {}},
        "model: unknown setting .*n_exp",
    ),
    "bad field": ({"format": "npgpt run", "model": {"n_head": 5}, "training": {}}, "model: n_embd must be divisible"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs(tmp_path, case):
    content, place = BAD_CONFIGS[case]
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(CheckpointError, match=place) as caught:
        runs.read_run_config(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


# Checkpoints

STATE = {
    "step": 1234,
    "best_loss": math.inf,
    "worst": -math.inf,
    "lr": 0.1 + 0.2,
    "tiny": 5e-324,
    "zero": -0.0,
    "rng": {"bit_generator": "PCG64", "state": {"state": 2**127 + 1, "inc": -(2**200)}, "has_uint32": 0},
    "whole": 1.0,
    "text": 'é " \\ \n \x00 😀 \ud800',
    "list": [1, [], {}, None, True],
    "": {},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_checkpoint_comes_back_exactly(tmp_path, dtype):
    path = tmp_path / "last.safetensors"
    weights = arrays(0, dtype)
    optimizer = {f"m.{name}": array for name, array in arrays(1, dtype).items()} | {"step": np.array(7)}
    runs.save_checkpoint(path, weights, optimizer, STATE, CONFIG)
    found_weights, found_optimizer, state = runs.load_checkpoint(path)
    assert_same(found_weights, weights)
    assert_same(found_optimizer, optimizer)
    assert repr(state) == repr(STATE)  # == would not tell 1 from 1.0 and True, nor 0.0 from -0.0
    opened = runs.read(MappedFile(path))
    config, only_weights = opened.config, arrays_of(opened)
    assert config == CONFIG
    assert_same(only_weights, weights)
    assert read_safetensors(path)[1]["format"] == "pt"


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, [(1,)], {"a": {None: 1}}])
def test_a_state_that_json_would_change_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match="state holds something that JSON changes"):
        runs.save_checkpoint(tmp_path / "a", arrays(0), {}, {"value": value}, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_state_with_nan_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a"
    runs.save_checkpoint(path, arrays(0), {}, {"loss": 1.5}, CONFIG)
    with pytest.raises(CheckpointError, match="npgpt_state: NaN is there"):
        runs.save_checkpoint(path, arrays(0), {}, {"loss": math.nan}, CONFIG)
    assert runs.load_checkpoint(path)[2] == {"loss": 1.5}


def test_a_file_that_can_not_be_written(tmp_path):
    with pytest.raises(CheckpointError, match="none/last: can't be written: No such file"):
        runs.save_checkpoint(tmp_path / "none" / "last", arrays(0), {}, {}, CONFIG)


def test_any_changed_bit_is_noticed(tmp_path):
    path = tmp_path / "last.safetensors"
    runs.save_checkpoint(path, arrays(3), {"m": np.full(3, 3, np.float32)}, {"step": 3}, CONFIG)
    whole = path.read_bytes()
    harmless = 0
    for place in range(0, len(whole), 3):
        flip(path, place)
        try:
            weights, optimizer, state = runs.load_checkpoint(path)
        except CheckpointError:
            pass
        else:  # a key of the metadata that nobody reads, or a space of the padding
            harmless += 1
            assert_same(weights | optimizer, arrays(3) | {"m": np.full(3, 3, np.float32)})
            assert state == {"step": 3}
        path.write_bytes(whole)
    assert harmless < 15


# A kill at any moment. The killer forks the writers itself: NumPy is imported once, in a process without threads.

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from npgpt.checkpoints.runs import load_checkpoint, save_checkpoint
from npgpt.config import GPTConfig

path = Path(sys.argv[1])
rng = random.Random(0)

def save(step):
    filled = np.full(200_000, step, np.float32)
    save_checkpoint(path, {"w": filled}, {"m": filled}, {"step": step}, GPTConfig())

save(0)
steps = []
for _ in range(12):
    child = os.fork()
    if child == 0:
        step = steps[-1] if steps else 0
        while True:
            step += 1
            save(step)
    time.sleep(rng.uniform(0.01, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    weights, optimizer, state = load_checkpoint(path)
    assert (weights["w"] == state["step"]).all() and (optimizer["m"] == state["step"]).all(), "steps are mixed"
    assert len(list(path.parent.iterdir())) <= 2, "leftovers pile up"
    steps.append(state["step"])
assert steps == sorted(steps) and steps[-1] > 12, steps
save(0)
assert os.listdir(path.parent) == [path.name], "a leftover stays"
print(*steps)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, as POSIX does")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    root = Path(runs.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "last.safetensors")], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
