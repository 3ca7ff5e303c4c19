"""Files from strangers, mapped into memory: what is read is checked against the file's end first."""

import mmap
import os
import re
import stat
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from npgpt.checkpoints import formats
from npgpt.errors import CheckpointError, UnreadableError


class MappedFile:
    """A regular file as read-only memory, whose pages come from the disk when they are looked at.

    path    as it was given; every message begins with it
    size    in bytes

    The file may be replaced or deleted while it is mapped; if another program shortens it in place, the process dies
    (SIGBUS), as with any mapped file. Raises CheckpointError if there is none, UnreadableError if it can't be read; an
    empty file is one of size 0.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with open(path, "rb", opener=_open_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise CheckpointError(f"{path}: not a regular file")
                self.size = status.st_size
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            kind = CheckpointError if isinstance(error, FileNotFoundError) else UnreadableError
            raise kind(f"{path}: can't be read: {error.strerror}") from None

    def format(self) -> formats.Format:
        """The format that the file begins and ends like. Raises CheckpointError, which names those that were tried."""
        begin = self.take(0, min(formats.BEGIN, self.size), "first bytes")
        end = self.take(max(0, self.size - formats.END), min(formats.END, self.size), "last bytes")
        found = formats.identify(begin, end)
        if found is None:
            tried = ", ".join(row.name for row in formats.FORMATS if row.matches)
            hint = _hint(self, begin)
            raise CheckpointError(f"{self.path}: not a file format that npgpt reads (tried: {tried}){hint}")
        return found

    def take(self, begin: int, length: int, what: str) -> bytes:
        """A copy of the bytes from ``begin`` on. ``what`` they are is for the message of the CheckpointError."""
        self._check(begin, length, what)
        return self._map[begin : begin + length]

    def array(self, begin: int, dtype: DTypeLike, count: int, what: str) -> np.ndarray:
        """``count`` elements of ``dtype`` from ``begin`` on: (count,), a read-only view of the file."""
        dtype = np.dtype(dtype)
        self._check(begin, count * dtype.itemsize, what)
        if count == 0:
            return np.empty(0, dtype)
        return np.frombuffer(self._map, dtype, count, begin)

    def release_pages(self) -> None:
        """Release the pages in memory; what is read again comes from the disk, or its cache, again."""
        if isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _check(self, begin, length, what):
        if not (0 <= begin <= begin + length <= self.size):
            place = f"{self.path}: {what}: bytes {begin:,} to {begin + length:,} of a file of {self.size:,}"
            raise CheckpointError(f"{place}: it is cut off, or damaged")


class Cursor:
    """Reads little-endian numbers from a MappedFile, one after the other. Whatever is beyond the end is an error."""

    def __init__(self, file: MappedFile, position: int = 0):
        self.file = file
        self.position = position

    def take(self, length: int, what: str) -> bytes:
        found = self.file.take(self.position, length, what)
        self.position += length
        return found

    def number(self, dtype: str, what: str) -> int:
        """The next whole number, of a NumPy dtype such as "<u4"."""
        return int(self.array(dtype, 1, what)[0])

    def array(self, dtype: DTypeLike, count: int, what: str) -> np.ndarray:
        """The next ``count`` elements, a read-only view of the file."""
        found = self.file.array(self.position, dtype, count, what)
        self.position += found.nbytes
        return found


def _hint(file: MappedFile, begin: bytes) -> str:
    """The likely nature of an unknown file, for its message."""
    if not file.size:
        return ": it is empty"
    if begin.startswith(b"version https://git-lfs"):
        return ": it stands for a file in Git LFS: `git lfs pull` gets that"
    if re.match(rb"\x80[\2-\5]", begin):
        return ": it may be a pickle, but not one of torch.save's"
    return "; if it belongs to a folder with weights, name the folder" if file.path.suffix == ".json" else ""


def _open_without_waiting(path, flags):
    """Open, but never wait for a writer, as opening a pipe would."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
