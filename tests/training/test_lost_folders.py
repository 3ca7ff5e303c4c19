"""A full disk, a folder that is removed or not ours any more, two processes in one folder: said, and survived."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from helpers.commands import CONSTANT_LR, QUICK, TINY, command, everything, refused, train

from npgpt.checkpoints import run_states, runs
from npgpt.errors import RunError
from npgpt.signals import Stopped
from npgpt.training import begin, saver
from npgpt.training.folder import locked
from npgpt.training.progress import Progress
from npgpt.training.settings import TrainSettings

RUN = ("text.txt", *TINY, *CONSTANT_LR, "--decay-steps", 1, "--eval-every", 100, "--sample-every", 0, "--max-steps", 6)


@pytest.fixture
def each_step(monkeypatch, tmp_path_factory):
    """Save after each step, and elsewhere in a folder of the test's own."""
    monkeypatch.setattr(saver, "SAVE_EVERY", 0)
    monkeypatch.setattr(saver, "PART", 0)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setattr(saver.tempfile, "tempdir", str(elsewhere))
    return elsewhere


def at_step(monkeypatch, step, do):
    """Do something before the state after ``step`` is saved."""
    write = saver.Saver._write_next

    def with_trouble(self):
        if self.state()["step"] == step:
            do()
        write(self)

    monkeypatch.setattr(saver.Saver, "_write_next", with_trouble)


def test_states_are_saved_by_time_whatever_evaluations_do(folder, each_step):
    run, _ = train(folder, *RUN, "--keep", 9)
    steps = [runs.load_checkpoint(path)[2]["step"] for path in run_states.state_files(run)]
    assert steps == [6, 5, 4, 3, 2, 1, 0]
    assert command("train", "--resume", run, "--max-steps", 8, "--keep", 2, cwd=folder).code == 0
    assert [path.stem for path in run_states.state_files(run)] == ["last", "step-000007", "step-000006"]
    assert command("train", "--resume", run, "--max-steps", 9, "--keep", 0, cwd=folder).code == 0
    assert [path.stem for path in run_states.state_files(run)] == ["last"]


def test_a_folder_that_is_removed(folder, each_step, monkeypatch):
    """Training goes on, and what was trained is a run in another folder."""
    at_step(monkeypatch, 3, lambda: shutil.rmtree(folder / "runs" / "text"))
    ended = command("train", *RUN, cwd=folder)
    assert ended.code == 2
    assert ".safetensors: can't be written: No such file or directory; training goes on\n" in ended.err
    (saved,) = each_step.iterdir()
    assert f"error: runs/text is not up to date: the run was saved in {saved}.\nGo on from there with --re" in ended.err
    monkeypatch.undo()
    unbroken, _ = train(folder, *RUN, "--max-steps", 8)
    assert command("train", "--resume", saved, "--max-steps", 8, cwd=folder).code == 0
    assert everything(saved)["arrays"] == everything(unbroken)["arrays"]


def test_a_folder_that_is_not_ours_for_a_while(folder, each_step, monkeypatch):
    """What was good stays, and it is written again as soon as that is possible."""
    real, allowed = os.replace, {"now": True}

    def replace(source, target):
        if not allowed["now"]:
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    seen = []

    def forbid():
        allowed["now"] = False

    def allow():
        seen.append(run_states.load_newest(folder / "runs" / "text")[3]["step"])
        allowed["now"] = True

    at_step(monkeypatch, 2, forbid)
    at_step(monkeypatch, 4, allow)
    run, ended = train(folder, *RUN)
    assert ended.err.count("last.safetensors: can't be written: Permission denied; training goes on\n") == 2
    assert seen == [1]
    assert [runs.load_checkpoint(path)[2]["step"] for path in run_states.state_files(run)] == [6, 5]


LIMITED = """
import resource, signal, sys
from npgpt.training import saver
saver.SAVE_EVERY = saver.PART = 0
write = saver.Saver._write_next
def limited(self):
    if self.state()["step"] == 3:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    write(self)
saver.Saver._write_next = limited
from npgpt.train import main; from npgpt.process import run; run(main)
"""


def test_no_room_in_the_middle_of_a_file(folder):
    """The system ends each file after 10,000 bytes from step 3 on, here and elsewhere."""
    typed = [sys.executable, "-c", LIMITED, *map(str, RUN)]
    environment = {**os.environ, "NPGPT_KERNELS": "numpy", "HOME": str(folder), "TMPDIR": str(folder)}
    ended = subprocess.run(typed, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("last.safetensors: can't be written: File too large; training goes on\n") >= 3
    *_, last = ended.stderr.splitlines()
    assert last.startswith("error: and nowhere else, so what was trained since the last save is lost: ")
    run = folder / "runs" / "text"
    assert [runs.load_checkpoint(path)[2]["step"] for path in run_states.state_files(run)] == [2, 1]
    assert not [path.name for path in run.iterdir() if path.name.endswith("npgpt-tmp")]
    assert not list(folder.glob("npgpt-*"))
    assert command("train", "--resume", run, cwd=folder).code == 0


# Beginning


def test_a_run_that_can_not_save_its_first_state_leaves_nothing(folder, monkeypatch):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    (folder / "empty").mkdir()
    for out in ("runs/new", "empty"):
        with contextlib.ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
            ended = command("train", "text.txt", *QUICK, "--out", out, cwd=folder)
        assert ended.code == 2
        assert ended.err.endswith("last.safetensors: can't be written: File too large\n")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["empty", "runs", "text.txt"]


def test_two_runs_that_want_one_empty_folder(folder, monkeypatch):
    """Both have looked, and found it empty: one gets it, the other is told so."""
    monkeypatch.chdir(folder)
    (folder / "out").mkdir()
    settings = TrainSettings(texts=("text.txt",), tokenizer="byte", preset="nano", context=8, out="out")
    together, results = threading.Barrier(2), []

    def create(out, exact):
        together.wait(60)
        return out

    monkeypatch.setattr(begin, "create_run", create)

    def begins():
        try:
            with begin.start(settings):
                together.wait(60)
                results.append("trained")
        except RunError as error:
            results.append(str(error))
            together.wait(60)

    threads = [threading.Thread(target=begins) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusal, trained = sorted(results)
    assert (refusal.removesuffix(f" (process {os.getpid()})"), trained) == ("out: this run is in progress", "trained")
    assert run_states.load_newest("out")[3]["step"] == 0


def test_a_run_that_another_process_has_made_meanwhile_stays(folder, monkeypatch):
    """It has begun and ended between the look at the folder and the lock."""
    monkeypatch.chdir(folder)
    settings = TrainSettings(texts=("text.txt",), tokenizer="byte", preset="nano", context=8, out="out")

    def create(out, exact):
        out.mkdir()
        (out / "config.json").write_text("another run")
        return out

    monkeypatch.setattr(begin, "create_run", create)
    with (
        pytest.raises(RunError, match=r"^out is there already: name a new folder, or --resume out"),
        begin.start(settings),
    ):
        pass
    assert (folder / "out" / "config.json").read_text() == "another run"


def test_a_run_in_progress_is_not_resumed(folder):
    run, _ = train(folder, "text.txt", *QUICK)
    with locked(run):
        words = [f"runs/text: this run is in progress (process {os.getpid()})"]
        refused("train", "--resume", cwd=folder, words=words)
        refused("train", "--resume", run, "--max-steps", 9, cwd=folder, words=["this run is in progress"])


def test_a_damaged_state_is_passed_over(folder, each_step):
    """From the one before it, the run ends with the same weights."""
    run, _ = train(folder, *RUN, "--keep", 2)
    whole = everything(run)["arrays"]
    path = run / "last.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    ended = command("train", "--resume", run, cwd=folder)
    assert ended.code == 0, ended
    assert "runs/text/last.safetensors: tensor " in ended.err
    assert "is not what was written: the file is damaged\nstep-000005.safetensors is taken instead\n" in ended.err
    assert "runs/text at step 5\n" in ended.err
    assert everything(run)["arrays"] == whole
    steps = [runs.load_checkpoint(path)[2]["step"] for path in run_states.state_files(run)]
    assert steps == [6, 5, 4]  # the damaged file took no whole one's place


def test_a_signal_before_the_first_save_leaves_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    settings = TrainSettings(texts=("text.txt",), tokenizer="byte", preset="nano", context=8, out="out")
    monkeypatch.setattr(saver.runs, "save_checkpoint", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped) as stopped, begin.start(settings):
        pass
    assert stopped.value.exit_code == 143
    assert not (folder / "out").exists()


def test_token_files_that_are_split_otherwise(folder):
    prepare = ("prepare", "text.txt", "--tokenizer", "byte", "--out", "tokens", "--val-fraction")
    assert command(*prepare, 0.5, cwd=folder).code == 0
    train(folder, "tokens", *QUICK, "--out", "run")
    shutil.rmtree(folder / "tokens")
    assert command(*prepare, 0.3, cwd=folder).code == 0
    typed = ("train", "--resume", "run", "--max-steps", 9)
    refused(*typed, cwd=folder, words=["tokens are to train on, and were", "Put that text back"])


def test_a_token_file_that_is_changed_while_it_is_trained_on(folder, monkeypatch):
    """What was trained until then is saved at once, and goes on when the file is as it was."""
    assert command("prepare", "text.txt", "--tokenizer", "byte", "--out", "tokens", cwd=folder).code == 0
    path = folder / "tokens" / "train.bin"
    tokens = path.read_bytes()
    run = ("tokens", *RUN[1:])
    train(folder, *run, "--out", "whole")
    told = Progress.step

    def change(self, step, *of):
        told(self, step, *of)
        if step == 3:
            path.write_bytes(b"\xff" * len(tokens))

    with monkeypatch.context() as during:
        during.setattr(Progress, "step", change)
        ended = command("train", *run, "--out", "changed", cwd=folder)
    assert ended.code == 2
    assert run_states.load_newest(folder / "changed")[3]["step"] == 3
    assert "tokens/train.bin was written to while a run was training on it: put back what was in it" in ended.err
    path.write_bytes(tokens)
    assert command("train", "--resume", "changed", cwd=folder).code == 0
    assert everything(folder / "changed")["arrays"] == everything(folder / "whole")["arrays"]


def test_what_a_kill_during_the_first_save_leaves_is_named(folder):
    left = folder / "left"
    left.mkdir()
    (left / ".lock").touch()
    (left / ".last.safetensors.0123abcd.npgpt-tmp").touch()
    for typed in (("text.txt", *RUN[1:], "--out", "left"), ("--resume", "left")):
        refused("train", *typed, cwd=folder, words=["left holds a run that has not saved itself yet; if it was killed"])
