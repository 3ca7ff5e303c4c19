"""Files from strangers, mapped into memory and never run over: what is read is checked against the file's end first."""

import mmap
import os
import stat
from pathlib import Path

import numpy as np

from npgpt.errors import CheckpointError


class MappedFile:
    """A regular file as read-only memory, whose pages come from the disk when they are looked at.

    path    as it was given; every message begins with it
    size    in bytes

    The file may be replaced or deleted while it is mapped; if another program shortens it in place, the process dies
    (SIGBUS), as with any mapped file. Raises CheckpointError if it can't be read; an empty file is one of size 0.
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
            raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None

    def take(self, begin: int, length: int, what: str) -> bytes:
        """A copy of the bytes from ``begin`` on. ``what`` they are is for the message of the CheckpointError."""
        self._check(begin, length, what)
        return self._map[begin : begin + length]

    def array(self, begin: int, dtype, count: int, what: str) -> np.ndarray:
        """``count`` numbers of ``dtype`` from ``begin`` on: (count,), a read-only view of the file."""
        dtype = np.dtype(dtype)
        self._check(begin, count * dtype.itemsize, what)
        if count == 0:
            return np.empty(0, dtype)
        return np.frombuffer(self._map, dtype, count, begin)

    def release_pages(self) -> None:
        """Let go of the pages in memory; what is looked at again comes from the disk, or its cache, again."""
        if self.size and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _check(self, begin, length, what):
        if not (0 <= begin <= begin + length <= self.size):
            raise CheckpointError(
                f"{self.path}: {what}: bytes {begin:,} to {begin + length:,} of a file of {self.size:,}: "
                f"it is cut off, or damaged"
            )


class Cursor:
    """Reads little-endian numbers from a MappedFile, one after the other. Whatever is beyond the end is an error."""

    def __init__(self, file: MappedFile, position: int = 0):
        self.file = file
        self.position = position

    def take(self, length: int, what: str) -> bytes:
        found = self.file.take(self.position, length, what)
        self.position += length
        return found

    def number(self, dtype: str, what: str):
        """The next number of a NumPy dtype such as "<u4", as Python's int or float."""
        dtype = np.dtype(dtype)
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def array(self, dtype, count: int, what: str) -> np.ndarray:
        """The next ``count`` numbers, a read-only view of the file."""
        found = self.file.array(self.position, dtype, count, what)
        self.position += found.nbytes
        return found


def _open_without_waiting(path, flags):
    """Open, but never wait for a writer, as opening a pipe would."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
