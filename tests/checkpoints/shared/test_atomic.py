"""A file that is written is the whole old one or the whole new one, and nothing is left beside it."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.checkpoints.shared import atomic
from npgpt.checkpoints.shared.atomic import atomic_folder, atomic_write, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_replaces_the_old_when_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_no_folder(tmp_path, error):
    (tmp_path / "a.bin").write_bytes(b"old")

    def write(opened):
        with opened as target:
            (target / "1").write_bytes(b"half") if isinstance(target, Path) else target.write(b"half of the n")
            raise error

    for opened in (atomic_write(tmp_path / "a.bin"), atomic_folder(tmp_path / "b")):
        with pytest.raises(error):
            write(opened)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_data_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("sync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *args: calls.append("rename") or replace(*args))
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert calls == (["sync", "rename", "sync"] if os.name == "posix" else ["sync", "rename"])


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
@pytest.mark.parametrize("opened", [atomic_write, atomic_folder])
def test_a_file_system_without_locks_that_can_not_sync_folders(tmp_path, monkeypatch, opened):
    """Such as some that are on a network."""

    def refuse(descriptor, *operation):
        if operation or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    with opened(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a.bin")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "a.bin").read_bytes() == b"x"


@pytest.mark.skipif(os.name != "posix", reason="kills by signal, as POSIX does")
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    targets = [tmp_path / "a.bin", tmp_path / "b[1].bin"]  # the second is no pattern that matches itself
    code = (
        "import os, sys\n"
        "from npgpt.checkpoints.shared.atomic import atomic_write\n"
        "for target in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        with atomic_write(target) as file:\n"
        "            file.write(b'x' * 100_000)\n"
        "            os.kill(os.getpid(), 9)\n"
        "    os.wait()\n"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, targets)], check=True)
    left = names(tmp_path)
    assert len(left) == 2
    assert all(name.endswith(".npgpt-tmp") for name in left)
    for target in targets:
        with atomic_write(target) as file:
            file.write(b"new")
    assert names(tmp_path) == ["a.bin", "b[1].bin"]


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_a_writer_leaves_the_file_of_another_that_is_still_writing(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as slow:
        slow.write(b"slow")
        with atomic_write(path) as quick:
            quick.write(b"quick")
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
@pytest.mark.parametrize("opened", [atomic_write, atomic_folder])
def test_a_writer_that_has_no_lock_yet_survives_another_that_cleans_up(tmp_path, monkeypatch, opened):
    flock, others = atomic.fcntl.flock, [tmp_path / "a"]

    def late(*arguments):
        while others:
            atomic._remove_leftovers(others.pop())
        return flock(*arguments)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    with opened(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("opened", [atomic_write, atomic_folder])
def test_without_locks_what_another_may_be_writing_stays(tmp_path, monkeypatch, opened):
    monkeypatch.setattr(atomic, "fcntl", None)
    other = tmp_path / ".a.0123abcd.npgpt-tmp"
    other.mkdir()
    (other / "half").touch()
    with opened(tmp_path / "a"):
        pass
    assert (other / "half").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_that_is_called_like_a_leftover_is_not_waited_for(tmp_path):
    """It may be in a stranger's folder."""
    os.mkfifo(tmp_path / ".a.0123abcd.npgpt-tmp")
    with atomic_write(tmp_path / "a") as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_files_are_left_alone(tmp_path):
    others = [".a.bin.swp", ".b.bin.0123.npgpt-tmp", ".a.bin2.0123.npgpt-tmp", "a.bin.npgpt-tmp"]
    for name in others:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "a.bin"):
        pass
    assert names(tmp_path) == sorted([*others, "a.bin"])


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


# Folders


def test_a_folder_appears_with_all_its_files(tmp_path):
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "1").write_bytes(b"one")
        assert folder.parent == tmp_path
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["1"]


def test_an_existing_path_is_never_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "empty").mkdir()
    before = names(tmp_path)
    for name in ("file", "empty", "file/a", "none/a"):
        with pytest.raises(OSError), atomic_folder(tmp_path / name):  # noqa: PT011
            pytest.fail("the block ran")
    assert (names(tmp_path), names(tmp_path / "empty")) == (before, [])
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "a"):  # noqa: PT012
        (tmp_path / "a").mkdir()  # by another program, meanwhile
        (tmp_path / "a" / "theirs").touch()
    assert names(tmp_path) == ["a", *before]
    assert names(tmp_path / "a") == ["theirs"]


@pytest.mark.skipif(os.name != "posix", reason="kills by signal, as POSIX does")
def test_the_next_writer_removes_the_folder_that_a_killed_one_left(tmp_path):
    code = (
        "import os, sys\n"
        "from npgpt.checkpoints.shared.atomic import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as folder:\n"
        "    (folder / '1').write_bytes(b'x' * 100_000)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    (left,) = names(tmp_path)
    assert left.startswith(".a.")
    assert left.endswith(".npgpt-tmp")
    with atomic_folder(tmp_path / "a") as slow:
        assert names(tmp_path) == [slow.name]
        with atomic_folder(tmp_path / "a"):  # leaves the first one, which is still being written
            pass
        (tmp_path / "a").rmdir()
        (slow / "1").touch()
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(("opened", "name"), [(atomic_write, "touch"), (atomic_folder, "mkdir")])
def test_a_signal_right_after_the_temporary_file_was_made_leaves_nothing(tmp_path, monkeypatch, opened, name):
    create = getattr(Path, name)

    def interrupted(path, *arguments, **options):
        create(path, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, name, interrupted)
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "a"):
        pass
    assert names(tmp_path) == []
