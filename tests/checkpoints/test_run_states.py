"""Which state of a run is the newest, and the newest that is whole; its name once another one has come."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from checkpoints.small_states import CONFIG, arrays, arrays_of, assert_same, flip
from npgpt.checkpoints import run_states, runs
from npgpt.checkpoints.shared import mmap_file
from npgpt.checkpoints.shared.checksums import KEY, check_texts
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError, CheckpointWarning, RunError


def test_the_newest_run_is_that_of_the_newest_last_file(tmp_path):
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match=f"there is no run in {re.escape(str(root))}/"):
            run_states.newest_run(root)
    for number, name in enumerate(["b", "a", "c"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.safetensors").touch()
        (tmp_path / name / "config.json").touch()
        os.utime(tmp_path / name / "last.safetensors", ns=(0, 10**9 + number))
    (tmp_path / "d").mkdir()  # newer, but nothing in it
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "last.safetensors").touch()  # not yet a run
    (tmp_path / "file").touch()
    assert run_states.newest_run(tmp_path) == tmp_path / "c"
    os.utime(tmp_path / "b" / "last.safetensors", ns=(0, 2 * 10**9))
    assert run_states.newest_run(tmp_path) == tmp_path / "b"


def test_the_weights_that_are_asked_for_or_the_others(tmp_path):
    def weights(which):
        return arrays_of(run_states.open_run(tmp_path, which))

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


@pytest.fixture
def three_states(tmp_path):
    """A run with the states after steps 100,000, 2 and 1, whose weights are those of the seeds 3, 2 and 1."""
    for seed, name in ((1, "step-000001"), (2, "step-000002"), (3, "last")):
        path = tmp_path / f"{name}.safetensors"
        runs.save_checkpoint(path, arrays(seed), {"m": np.full(3, seed, np.float32)}, {"step": seed}, CONFIG)
    return tmp_path


def test_states_of_many_steps_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("step-999999", "step-1000000", "step-000007", "step-12", "last"):  # that of 12 is none of ours
        (tmp_path / f"{name}.safetensors").write_text(name)
    found = [path.stem for path in run_states.state_files(tmp_path)]
    assert found == ["last", "step-1000000", "step-999999", "step-000007"]


def test_a_damaged_file_is_passed_over_with_a_warning(three_states):
    assert [path.stem for path in run_states.state_files(three_states)] == ["last", "step-000002", "step-000001"]
    assert run_states.load_newest(three_states)[3] == {"step": 3}
    flip(three_states / "last.safetensors", -1)
    with pytest.warns(CheckpointWarning, match=r"is not what was written.*\nstep-000002.safetensors is taken instead"):
        path, weights, optimizer, state = run_states.load_newest(three_states)
    assert (path.stem, state) == ("step-000002", {"step": 2})
    assert_same(weights | optimizer, arrays(2) | {"m": np.full(3, 2, np.float32)})
    (three_states / "step-000002.safetensors").write_bytes(b"")
    with pytest.warns(CheckpointWarning) as warned:
        assert run_states.load_newest(three_states)[3] == {"step": 1}
    assert len(warned) == 2
    flip(three_states / "step-000001.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        run_states.load_newest(three_states)


def test_a_state_that_can_not_be_read_is_not_passed_over_to_train_on(three_states, monkeypatch):
    """It may be whole, and would be replaced. To look at, an earlier one will do."""

    def opener(path, flags):
        if path.endswith("last.safetensors"):
            raise PermissionError(13, "Permission denied")
        return os.open(path, flags)

    monkeypatch.setattr(mmap_file, "_open_without_waiting", opener)
    with pytest.raises(RunError, match=r"last\.safetensors: can't be read: Permission denied\.\nIt may be whole"):
        run_states.load_newest(three_states)
    with pytest.warns(CheckpointWarning, match="step-000002"):
        assert_same(arrays_of(run_states.open_run(three_states, "last")), arrays(2))


def test_a_text_that_is_not_what_was_written():
    """A file's texts have checksums, too. Their names may be a stranger's."""
    sums = {KEY: json.dumps({"tensors": {}, "texts": {"\x1b[2J": 1}})}
    with pytest.raises(CheckpointError, match=r"f: __metadata__ '\\x1b\[2J' is not what was written"):
        check_texts(sums, "f")


def test_damaged_weights_are_not_sampled_from(three_states):
    runs.save_weights(three_states / "best.safetensors", arrays(4), CONFIG)
    name = next(iter(arrays(3)))
    data = (three_states / "last.safetensors").read_bytes()
    place = data.index(arrays(3)[name].tobytes())
    flip(three_states / "last.safetensors", place)
    with pytest.raises(CheckpointError, match=f"last.safetensors: tensor '{re.escape(name)}' is not what was written"):
        runs.read(MappedFile(three_states / "last.safetensors"))
    with pytest.warns(CheckpointWarning, match="step-000002"):
        assert_same(arrays_of(run_states.open_run(three_states, "last")), arrays(2))
    assert_same(arrays_of(run_states.open_run(three_states, "best")), arrays(4))
    flip(three_states / "best.safetensors", -1)
    with pytest.warns(CheckpointWarning, match="step-000002"):
        assert_same(arrays_of(run_states.open_run(three_states, "best")), arrays(2))


@pytest.mark.parametrize("refused", [(), ("link",)])
def test_the_last_state_gets_a_name_of_its_own(three_states, monkeypatch, refused):
    def refuse(*arguments):
        raise OSError(1, "Operation not permitted")

    for name in refused:
        monkeypatch.setattr(os, name, refuse)
    before = (three_states / "last.safetensors").read_bytes()
    for _ in range(2):  # a killed writer has left the name
        run_states.keep_last(three_states, 3)
        assert (three_states / "step-000003.safetensors").read_bytes() == before
        assert (three_states / "last.safetensors").exists() == (not refused)
        newest = "step-000003" if refused else "last"  # once, though it may have both names
        files = [path.stem for path in run_states.state_files(three_states)]
        assert files == [newest, "step-000002", "step-000001"]
        assert run_states.load_newest(three_states)[3] == {"step": 3}
        (three_states / "last.safetensors").write_bytes(before)


def test_a_link_to_a_state_elsewhere(three_states, tmp_path):
    """The file that it points to is replaced, so the kept one must not be a link to it."""
    (three_states / "disk").mkdir()
    (three_states / "last.safetensors").rename(three_states / "disk" / "last")
    (three_states / "last.safetensors").symlink_to("disk/last")
    run_states.keep_last(three_states, 3)
    runs.save_checkpoint(three_states / "last.safetensors", arrays(5), {}, {"step": 5}, CONFIG)
    assert (three_states / "last.safetensors").is_symlink()
    assert [runs.load_checkpoint(path)[2]["step"] for path in run_states.state_files(three_states)] == [5, 3, 2, 1]


def test_a_state_that_is_removed_while_it_is_looked_for(tmp_path, monkeypatch):
    """By the process that trains the run, which keeps the newest ones alone."""
    for name in ("config.json", "last.safetensors", "step-000001.safetensors", "step-000002.safetensors"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).touch()
    same, stat = Path.samefile, Path.stat

    def samefile(path, other):
        if path.name == "step-000001.safetensors":
            path.unlink()
        return same(path, other)

    monkeypatch.setattr(Path, "samefile", samefile)
    assert [path.stem for path in run_states.state_files(tmp_path / "a")] == ["last", "step-000002"]

    def after_removal(path, **options):
        if path.name == "step-000002.safetensors":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(run_states, "state_files", lambda folder: sorted(folder.glob("*.safetensors")))
    monkeypatch.setattr(Path, "stat", after_removal)
    assert run_states.newest_run(tmp_path) == tmp_path / "a"
