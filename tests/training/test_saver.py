"""When a run is saved, and that a full disk costs no trained weights."""

import shutil
import signal
import tempfile
from collections import namedtuple
from types import SimpleNamespace

import pytest
from helpers.commands import CONSTANT_LR, QUICK, command, refused, train
from helpers.commands import everything as all_of

from npgpt import GPT, GPTConfig
from npgpt.checkpoints import run_states, runs
from npgpt.errors import CheckpointError, RunError
from npgpt.training import saver


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass by hand; a save takes ``clock.save`` of them."""
    clock = SimpleNamespace(now=0.0, save=0.0)
    monkeypatch.setattr(saver.time, "monotonic", lambda: clock.now)

    def save(*arguments):
        clock.now += clock.save

    monkeypatch.setattr(saver.runs, "save_checkpoint", save)
    return clock


def test_saving_is_by_time_and_takes_a_twentieth_at_most(tmp_path, clock, monkeypatch):
    part = SimpleNamespace(state_dict=dict, config=None, metadata=dict, write_beside=str)
    saving = saver.Saver(tmp_path, part, part, lambda: {"step": 0}, None, keep=0)

    def seconds_until_due():
        began = clock.now
        while not saving.due:
            clock.now += 0.01
        return clock.now - began

    saving.save_first()
    saving.start()
    assert seconds_until_due() == pytest.approx(60, abs=0.02)
    for took, wait in ((0.5, 60), (3.0, 60), (10.0, 200)):
        clock.save = took
        saving.save()
        assert seconds_until_due() == pytest.approx(wait, abs=0.02)
    monkeypatch.setattr(saver.runs, "save_checkpoint", full)
    saving.save()
    assert seconds_until_due() == pytest.approx(60, abs=0.02)  # a save that fails is not tried again at once


def state_step(run):
    return runs.load_checkpoint(run / "last.safetensors")[2]["step"]


def full(path, *arguments):
    raise CheckpointError(f"{path}: can't be written: No space left on device")


@pytest.mark.parametrize("links", [True, False])
def test_saves_that_fail_leave_the_newest_state(tmp_path, monkeypatch, links):
    """Also where a file can't have two names for a moment, as on exFAT: then last.safetensors has gone meanwhile."""
    if not links:
        monkeypatch.setattr(run_states.os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "no links")))
    step = {"step": 0}
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2))
    part = SimpleNamespace(state_dict=model.state_dict, config=model.config, metadata=dict, write_beside=str)
    saving = saver.Saver(tmp_path, part, SimpleNamespace(state_dict=dict), lambda: dict(step), None, keep=1)
    saving.save_first()
    save = runs.save_checkpoint
    for number in range(1, 6):
        step["step"] = number
        monkeypatch.setattr(runs, "save_checkpoint", full if number in (2, 3) else save)
        saving.save()
        newest = 1 if number in (2, 3) else number
        assert run_states.load_newest(tmp_path)[3] == {"step": newest}
        assert len(run_states.state_files(tmp_path)) == 2
    assert (tmp_path / "last.safetensors").exists()


def test_a_folder_that_can_not_be_listed_ends_no_run(tmp_path, monkeypatch, capsys):
    """As when all file descriptors are taken for a moment."""

    def glob(path, pattern):
        raise OSError(24, "Too many open files", str(path))

    part = SimpleNamespace(state_dict=dict, config=None, metadata=dict, write_beside=str)
    saving = saver.Saver(tmp_path, part, part, lambda: {"step": 0}, None, keep=1)
    monkeypatch.setattr(run_states.Path, "glob", glob)
    monkeypatch.setattr(saver.runs, "save_checkpoint", full)
    saving.save()
    assert capsys.readouterr().err.endswith("training goes on\n")


def test_no_room_for_a_run(folder, monkeypatch):
    sizes = GPTConfig(vocab_size=257, block_size=8, n_layer=1, n_head=2, n_embd=8)
    weights = sum(array.nbytes for array in GPT(sizes).state_dict().values())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 10 * weights - 1))
    refused("train", "text.txt", *QUICK, cwd=folder, words=[".: 0.1 MB are free there, and the run will write 0.1 MB"])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 10 * weights))
    train(folder, "text.txt", *QUICK)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 6 * weights))
    assert command("train", "--resume", "--max-steps", 3, cwd=folder).code == 0  # what is there makes room
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 0))  # it isn't known
    assert command("train", "--resume", "--max-steps", 4, cwd=folder).code == 0


def test_a_disk_that_is_full_at_the_end(folder, monkeypatch, tmp_path_factory):
    """Training goes on without saves; in the end all goes where there is room, and can be put back and resumed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    save = runs.save_checkpoint
    steps = iter([0])  # the first one can be saved

    def save_or_not(path, *of):
        (save if elsewhere in path.parents or next(steps, 1) == 0 else full)(path, *of)

    monkeypatch.setattr(runs, "save_checkpoint", save_or_not)
    monkeypatch.setattr(runs, "save_weights", full)
    typed = ("text.txt", *QUICK, *CONSTANT_LR, "--decay-steps", 1, "--eval-every", 1)
    ended = command("train", *typed, cwd=folder)
    assert ended.code == 2
    assert "best.safetensors: can't be written: No space left on device; training goes on\n" in ended.err
    (kept,) = elsewhere.glob("npgpt-*")
    assert ended.err.endswith(
        "runs/text/last.safetensors: can't be written: No space left on device\n"
        f"error: runs/text is not up to date: the run was saved in {kept}.\n"
        f"Go on from there with --resume {kept}, or move its last.safetensors here.\n"
    )
    monkeypatch.undo()
    assert (state_step(folder / "runs" / "text"), state_step(kept)) == (0, 2)
    unbroken, _ = train(folder, *typed, "--max-steps", 4, "--out", "unbroken")
    assert command("train", "--resume", kept, "--max-steps", 4, cwd=folder).code == 0
    assert all_of(kept)["arrays"] == all_of(unbroken)["arrays"]
    shutil.copy(kept / "last.safetensors", folder / "runs" / "text")
    assert command("train", "--resume", "runs/text", "--max-steps", 6, cwd=folder).code == 0


@pytest.mark.parametrize("has_home", [True, False])
def test_at_the_end_a_place_that_can_not_be_written_is_passed_over(tmp_path, monkeypatch, has_home):
    """The folder for temporary files may have gone with the run's. Then comes the home folder, then the working one."""
    place = tmp_path / "place"
    place.mkdir()

    def home():
        if not has_home:
            raise RuntimeError("Could not determine home directory.")
        return place

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(saver.Path, "home", home)
    monkeypatch.chdir(tmp_path if has_home else place)
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2))
    part = SimpleNamespace(state_dict=model.state_dict, config=model.config, metadata=dict, write_beside=str)
    optimizer, described = SimpleNamespace(state_dict=dict), []
    saving = saver.Saver(tmp_path / "gone", part, optimizer, lambda: {"step": 7}, described.append, keep=1)
    with pytest.raises(RunError, match="is not up to date: the run was saved in "):
        saving.save_at_end()
    (kept,) = place.glob("npgpt-*")
    assert (state_step(kept), described) == (7, [kept])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_end_is_saved_costs_nothing(folder, monkeypatch, number):
    save = runs.save_checkpoint

    def interrupted(path, *arguments):
        if arguments[2]["step"]:
            signal.raise_signal(number)
        save(path, *arguments)

    monkeypatch.setattr(saver.Saver, "due", False)  # so that nothing is saved before
    monkeypatch.setattr(runs, "save_checkpoint", interrupted)
    run, ended = train(folder, "text.txt", *QUICK)
    assert ended.out.startswith("trained 2 steps")
    assert runs.load_checkpoint(run / "last.safetensors")[2]["step"] == 2
