"""Run folders: names that are never used again, checkpoints that come back exactly, and a kill at any moment."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from npgpt.checkpoints import runs
from npgpt.checkpoints.safetensors import read_safetensors
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, CheckpointWarning
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=1, n_head=2, n_embd=8, n_inner=24, tie_weights=False)


def arrays_of(checkpoint):
    return {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}


def arrays(seed: int, dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"wte.weight": rng.standard_normal((11, 8)).astype(dtype), "ln_f.bias": rng.standard_normal(8).astype(dtype)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


# Folders


def test_the_newest_run_is_that_of_the_newest_last_file(tmp_path):
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match=f"there is no run in {re.escape(str(root))}/"):
            runs.newest_run(root)
    for number, name in enumerate(["b", "a", "c"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.safetensors").touch()
        (tmp_path / name / "config.json").touch()
        os.utime(tmp_path / name / "last.safetensors", ns=(0, 10**9 + number))
    (tmp_path / "d").mkdir()  # newer, but nothing in it
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "last.safetensors").touch()  # not yet a run
    (tmp_path / "file").touch()
    assert runs.newest_run(tmp_path) == tmp_path / "c"
    os.utime(tmp_path / "b" / "last.safetensors", ns=(0, 2 * 10**9))
    assert runs.newest_run(tmp_path) == tmp_path / "b"


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


def test_the_weights_that_are_asked_for_or_the_others(tmp_path):
    def weights(which):
        return arrays_of(runs.open_run(tmp_path, which))

    with pytest.raises(CheckpointError, match=r"no last\.safetensors and no best\.safetensors: the run has not saved"):
        weights("best")
    runs.save_checkpoint(tmp_path / "last.safetensors", arrays(0), {"m": np.zeros(3)}, {}, CONFIG)
    assert_same(weights("best"), arrays(0))
    runs.save_weights(tmp_path / "best.safetensors", arrays(1), CONFIG)
    assert runs.read(MappedFile(tmp_path / "best.safetensors")).config == CONFIG
    assert_same(weights("best"), arrays(1))
    assert_same(weights("last"), arrays(0))
    with pytest.raises(CheckpointError, match=r"best\.safetensors: __metadata__ has no npgpt_state, so training can't"):
        runs.load_checkpoint(tmp_path / "best.safetensors")
    (tmp_path / "last.safetensors").unlink()
    assert_same(weights("last"), arrays(1))


# Damage


@pytest.fixture
def three_states(tmp_path):
    """A run with the states after steps 100,000, 2 and 1, whose weights are those of the seeds 3, 2 and 1."""
    for seed, name in ((1, "step-000001"), (2, "step-000002"), (3, "last")):
        path = tmp_path / f"{name}.safetensors"
        runs.save_checkpoint(path, arrays(seed), {"m": np.full(3, seed, np.float32)}, {"step": seed}, CONFIG)
    return tmp_path


def flip(path, place):
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_any_changed_bit_is_noticed(three_states):
    path = three_states / "last.safetensors"
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


def test_a_damaged_file_is_passed_over_with_a_warning(three_states):
    assert [path.stem for path in runs.state_files(three_states)] == ["last", "step-000002", "step-000001"]
    assert runs.load_newest(three_states)[3] == {"step": 3}
    flip(three_states / "last.safetensors", -1)
    with pytest.warns(CheckpointWarning, match=r"is not what was written.*\nstep-000002.safetensors is taken instead"):
        path, weights, optimizer, state = runs.load_newest(three_states)
    assert (path.stem, state) == ("step-000002", {"step": 2})
    assert_same(weights | optimizer, arrays(2) | {"m": np.full(3, 2, np.float32)})
    (three_states / "step-000002.safetensors").write_bytes(b"")
    with pytest.warns(CheckpointWarning) as warned:
        assert runs.load_newest(three_states)[3] == {"step": 1}
    assert len(warned) == 2
    flip(three_states / "step-000001.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        runs.load_newest(three_states)


def test_damaged_weights_are_not_sampled_from(three_states):
    runs.save_weights(three_states / "best.safetensors", arrays(4), CONFIG)
    name = next(iter(arrays(3)))
    data = (three_states / "last.safetensors").read_bytes()
    place = data.index(arrays(3)[name].tobytes())
    flip(three_states / "last.safetensors", place)
    with pytest.raises(CheckpointError, match=f"last.safetensors: tensor '{re.escape(name)}' is not what was written"):
        runs.read(MappedFile(three_states / "last.safetensors"))
    with pytest.warns(CheckpointWarning, match="step-000002"):
        assert_same(arrays_of(runs.open_run(three_states, "last")), arrays(2))
    assert_same(arrays_of(runs.open_run(three_states, "best")), arrays(4))
    flip(three_states / "best.safetensors", -1)
    with pytest.warns(CheckpointWarning, match="step-000002"):
        assert_same(arrays_of(runs.open_run(three_states, "best")), arrays(2))


@pytest.mark.parametrize("refused", [(), ("link",)])
def test_the_last_state_gets_a_name_of_its_own(three_states, monkeypatch, refused):
    def refuse(*arguments):
        raise OSError(1, "Operation not permitted")

    for name in refused:
        monkeypatch.setattr(os, name, refuse)
    before = (three_states / "last.safetensors").read_bytes()
    for _ in range(2):  # a killed writer has left the name
        runs.keep_last(three_states, 3)
        assert (three_states / "step-000003.safetensors").read_bytes() == before
        assert (three_states / "last.safetensors").exists() == (not refused)
        assert runs.load_newest(three_states)[3] == {"step": 3}
        (three_states / "last.safetensors").write_bytes(before)


def test_a_link_to_a_state_elsewhere(three_states, tmp_path):
    """The file that it points to is replaced, so the kept one must not be a link to it."""
    (three_states / "disk").mkdir()
    (three_states / "last.safetensors").rename(three_states / "disk" / "last")
    (three_states / "last.safetensors").symlink_to("disk/last")
    runs.keep_last(three_states, 3)
    runs.save_checkpoint(three_states / "last.safetensors", arrays(5), {}, {"step": 5}, CONFIG)
    assert (three_states / "last.safetensors").is_symlink()
    assert [runs.load_checkpoint(path)[2]["step"] for path in runs.state_files(three_states)] == [5, 3, 2, 1]


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
