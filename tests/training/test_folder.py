"""Run folders: names that are never used again, one process at a time, and room for what will be written."""

import errno
import json
import os
import threading

import pytest
from conftest import TEXT
from helpers.commands import QUICK, assert_refused, command, refused, train

from npgpt.checkpoints import runs
from npgpt.errors import RunError
from npgpt.training import folder
from npgpt.training.folder import create_run, locked


def test_a_folder_that_is_there_is_never_used_again(tmp_path):
    out = tmp_path / "my" / "runs" / "the-verdict"
    assert [create_run(out).name for _ in range(3)] == ["the-verdict", "the-verdict-2", "the-verdict-3"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["the-verdict", "the-verdict-2", "the-verdict-3"]
    (out.parent / "x.v1").touch()  # a file is in the way too, and the name's dot is no suffix
    assert create_run(out.parent / "x.v1").name == "x.v1-2"


def test_runs_that_start_together_get_different_folders(tmp_path):
    made = []
    threads = [threading.Thread(target=lambda: made.append(create_run(tmp_path / "a"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20


def test_a_folder_that_the_user_named(tmp_path):
    out = tmp_path / "a" / "b"
    assert create_run(out, exact=True) == out
    assert create_run(out, exact=True) == out  # it is empty
    (out / ".lock").touch()  # and still is, for another process may have waited for it
    assert create_run(out, exact=True) == out
    (out / "metrics.jsonl").touch()
    with pytest.raises(RunError, match=r"b holds a run that has not saved itself yet; .*, or name a new one$"):
        create_run(out, exact=True)
    for name in (".lock", "metrics.jsonl"):
        (out / name).unlink()
    (out / "last.safetensors").touch()  # of a run that a kill has ended before it was one
    with pytest.raises(RunError, match=r"b is there already: name a new folder$"):
        create_run(out, exact=True)
    (out / "config.json").touch()
    with pytest.raises(RunError, match=r"b is there already: name a new folder, or --resume .*b$"):
        create_run(out, exact=True)
    with pytest.raises(RunError, match=r"config\.json is there already: name a new folder$"):
        create_run(out / "config.json", exact=True)


@pytest.mark.parametrize("exact", [True, False])
def test_a_folder_that_can_not_be_made(tmp_path, exact):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/a: a folder can't be made there"):
        create_run(tmp_path / "file" / "a", exact)
    with pytest.raises(RunError, match=r"a folder can't be made there: File name too long"):
        create_run(tmp_path / ("x" * 300), exact)


def test_a_lock_is_for_one_process_and_names_it(tmp_path):
    in_progress = pytest.raises(RunError, match=rf"this run is in progress \(process {os.getpid()}\)")
    for _ in range(2):  # also when there has been a lock before
        with locked(tmp_path), in_progress, locked(tmp_path):
            pass


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_where_there_are_no_locks_a_run_trains_without_one(tmp_path, monkeypatch):
    import fcntl

    def none(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path):
        pass


def test_a_lock_where_nothing_can_be_written(tmp_path):
    with pytest.raises(RunError, match="none: can't be written to: No such file"), locked(tmp_path / "none"):
        pass


def test_nothing_is_written_through_a_link_in_a_strangers_folder(tmp_path):
    """Resuming empties the lock and takes lines from metrics.jsonl, so they would be any file of the user's."""
    (tmp_path / "text.txt").write_text(TEXT)
    run, _ = train(tmp_path, "text.txt", *QUICK, "--out", "run")
    resume = ("train", "--resume", "run", "--max-steps", 4)
    (tmp_path / "mine").write_text("mine")
    for name in folder.WRITTEN:
        if name == runs.CONFIG_FILE:
            continue
        whole = (run / name).read_bytes() if (run / name).exists() else None
        for target in ("mine", "gone"):
            (run / name).unlink(missing_ok=True)
            (run / name).symlink_to(tmp_path / target)
            words = f"run/{name} is a link, and training would write to {tmp_path / target}"
            assert_refused(command(*resume, cwd=tmp_path), words)
        (run / name).unlink()
        if whole is not None:
            (run / name).write_bytes(whole)
    assert not (tmp_path / "gone").exists()
    (run / runs.METRICS_FILE).unlink()
    (run / runs.METRICS_FILE).mkdir()  # as would be a pipe
    assert_refused(command(*resume, cwd=tmp_path), "run/metrics.jsonl is not a file")
    (run / runs.METRICS_FILE).rmdir()
    (tmp_path / "config").write_bytes((run / runs.CONFIG_FILE).read_bytes())
    (run / runs.CONFIG_FILE).unlink()
    (run / runs.CONFIG_FILE).symlink_to(tmp_path / "config")
    refused(*resume, cwd=tmp_path, words=["run/config.json is a link"])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / folder.LOCK_FILE).symlink_to(tmp_path / "mine")
    refused("train", "text.txt", *QUICK, "--out", "new", cwd=tmp_path, words=["new/.lock is a link"])
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_last_state_may_be_a_link_if_the_run_goes_on_from_it(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    run, _ = train(tmp_path, "text.txt", *QUICK, "--out", "run")
    (run / "last.safetensors").rename(tmp_path / "disk")
    (run / "last.safetensors").symlink_to(tmp_path / "disk")
    assert command("train", "--resume", "run", "--max-steps", 3, cwd=tmp_path).code == 0
    assert (run / "last.safetensors").is_symlink()
    for target in ("text.txt", "gone"):  # then step-000002.safetensors is what it goes on from
        (run / "last.safetensors").unlink()
        (run / "last.safetensors").symlink_to(tmp_path / target)
        ended = command("train", "--resume", "run", "--max-steps", 4, cwd=tmp_path)
        assert_refused(ended, "run/last.safetensors is a link")
    assert (tmp_path / "text.txt").read_text() == TEXT


def test_a_folder_that_can_not_be_made_is_refused_before_the_text_is_read(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "text.txt").write_bytes(b"abc \xff")
    for out in ("file/x", "file/x/y"):
        refused("train", "text.txt", "--out", out, cwd=tmp_path, words=["file is not a folder that you may write to"])
    for typed, words in (
        (("--n-head", 5, "--n-embd", 64), "n_embd must be divisible by n_head"),
        (("--preset", "auto"), "give a --time-budget"),
    ):
        refused("train", "text.txt", "--tokenizer", "bpe:300", *typed, cwd=tmp_path, words=[words])


def test_a_state_with_impossible_numbers_is_refused(tmp_path):
    """Before the first step: the last step would be too late."""
    (tmp_path / "text.txt").write_text(TEXT)
    run, _ = train(tmp_path, "text.txt", *QUICK)
    path = run / "last.safetensors"
    weights, moments, state = runs.load_checkpoint(path)
    config = runs.read_run_config(run)[0]
    weights, moments = ({name: x.copy() for name, x in arrays.items()} for arrays in (weights, moments))
    inf = float("inf")
    for *places, name, value in [
        ("step", inf), ("step", -3), ("step", "2"), ("evaluation", "last_step", inf), ("progress", "elapsed", inf),
        ("early_stopping", "best_step", [1]), ("early_stopping", "evaluations_without_progress", inf),
        ("dropout", "uinteger", 2**40),
    ]:  # fmt: skip
        damaged = json.loads(json.dumps(state))
        part = damaged
        for place in places:
            part = part[place]
        assert name in part
        part[name] = value
        runs.save_checkpoint(path, weights, moments, damaged, config)
        refused("train", "--resume", "--max-steps", 9, cwd=tmp_path, words=["the training state is damaged"])


def test_an_empty_folder_may_be_taken_though_nothing_can_be_made_beside_it(tmp_path, monkeypatch):
    """Such as a disk's own folder."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(folder.os, "access", lambda path, mode: path == tmp_path / "disk" or not mode & os.W_OK)
    folder.check_free(tmp_path / "disk")
    with pytest.raises(RunError, match="is not a folder that you may write to"):
        folder.check_free(tmp_path / "other")
