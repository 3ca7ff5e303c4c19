"""Mapped files: nothing beyond the end is ever looked at."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from npgpt.checkpoints.shared.mmap_file import Cursor, MappedFile
from npgpt.errors import CheckpointError


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(10)))
    return MappedFile(tmp_path / "a")


def test_bytes_and_arrays(file):
    assert file.size == 10
    assert file.take(2, 3, "x") == bytes([2, 3, 4])
    array = file.array(1, "<u2", 2, "x")
    assert array.tolist() == [0x0201, 0x0403]
    assert not array.flags.writeable
    assert file.array(10, "<f4", 0, "x").shape == (0,)
    file.release_pages()
    assert array.tolist() == [0x0201, 0x0403]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="this system doesn't tell what is in memory")
def test_pages_that_are_released_are_in_memory_no_more(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 2**13)
    file = MappedFile(path)
    array = file.array(0, np.uint8, file.size, "x")

    def resident():
        """Bytes of the file that are mapped and in memory."""
        maps = Path("/proc/self/smaps").read_text().split(f"{path}\n")[1:]
        return sum(1024 * int(re.search(r"Rss: +(\d+) kB", of)[1]) for of in maps)

    total = int(array.sum())
    assert resident() == file.size
    file.release_pages()
    assert resident() == 0
    assert int(array.sum()) == total


@pytest.mark.parametrize(("begin", "length"), [(0, 11), (10, 1), (11, 0), (-1, 2), (2, -1), (0, 2**70), (2**70, 1)])
def test_beyond_the_end(file, begin, length):
    with pytest.raises(CheckpointError, match=r"/a: the weights: bytes .* of a file of 10: it is cut off, or damaged$"):
        file.take(begin, length, "the weights")
    with pytest.raises(CheckpointError, match="the weights"):
        file.array(begin, np.uint8, length, "the weights")


def test_a_cursor(file):
    cursor = Cursor(file, 1)
    assert cursor.number("<u2", "x") == 0x0201
    assert cursor.take(2, "x") == bytes([3, 4])
    assert cursor.array("<u2", 2, "x").tolist() == [0x0605, 0x0807]
    assert cursor.number("u1", "x") == 9
    with pytest.raises(CheckpointError, match="the end: bytes 10 to 11 of a file of 10"):
        cursor.number("u1", "the end")


def test_folders_pipes_and_absent_files_are_refused(tmp_path):
    (tmp_path / "empty").touch()
    assert MappedFile(tmp_path / "empty").size == 0
    MappedFile(tmp_path / "empty").release_pages()
    with pytest.raises(CheckpointError, match="none: can't be read: No such file"):
        MappedFile(tmp_path / "none")
    with pytest.raises(CheckpointError):
        MappedFile(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CheckpointError, match="pipe: not a regular file"):
            MappedFile(tmp_path / "pipe")
