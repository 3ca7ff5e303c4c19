"""A file that is written is the whole old one or the whole new one, and nothing is left beside it."""

import os
import subprocess
import sys

import pytest

from npgpt.checkpoints.shared.atomic import atomic_folder, atomic_write, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_replaces_the_old(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"old", b"new and longer", b""):
        with atomic_write(path) as file:
            file.write(content)
        assert path.read_bytes() == content
        assert names(tmp_path) == ["a.bin"]


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_data_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("sync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *args: calls.append("rename") or replace(*args))
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert calls == (["sync", "rename", "sync"] if os.name == "posix" else ["sync", "rename"])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "a.bin"):
        pass


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


def test_other_files_are_left_alone(tmp_path):
    others = [".a.bin.swp", ".b.bin.0123.npgpt-tmp", "a.bin.npgpt-tmp"]
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


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_appears_with_all_its_files(tmp_path, existing):
    path = tmp_path / "a"
    if existing:
        path.mkdir()
    with atomic_folder(path) as folder:
        (folder / "1").write_bytes(b"one")
        assert folder.parent == tmp_path
        assert not existing or names(path) == []
        assert path.exists() == existing
    assert names(tmp_path) == ["a"]
    assert names(path) == ["1"]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_no_folder(tmp_path, error, existing):
    if existing:
        (tmp_path / "a").mkdir()

    def write():
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "1").write_bytes(b"half")
            (folder / "2").mkdir()
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == ["a"] * existing
    assert not existing or names(tmp_path / "a") == []


def test_what_is_there_is_never_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").write_bytes(b"old")
    before = names(tmp_path)
    for name in ("file", "folder", "file/a", "none/a"):
        with pytest.raises(OSError), atomic_folder(tmp_path / name):  # noqa: PT011
            pytest.fail("the block ran")
    assert (names(tmp_path), names(tmp_path / "folder")) == (before, [".hidden"])


def test_what_is_put_there_meanwhile_is_not_replaced(tmp_path):
    def write():
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "1").touch()
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "theirs").touch()

    with pytest.raises(OSError, match="not empty"):
        write()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["theirs"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "1").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == ["1"]


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
