"""Files that are the whole new one or the whole old one, whatever stops the writer: an error, Ctrl-C, kill -9, a cut;
and new folders that are there with all their files, or not at all.

The bytes go to a temporary file in the same folder, are synced to the disk, and then take the old file's name in one
step (rename is atomic within a file system, POSIX rename(2)). Last, the folder is synced, so that the name stays too.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from npgpt.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".npgpt-tmp"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Give a binary file to write to; it takes the name ``path`` when the block ends, and only if it ends well.

        with atomic_write("runs/x/last.safetensors") as file:
            file.write(data)

    If the block raises (KeyboardInterrupt too), the temporary file is removed and the old file stays as it was. A kill
    leaves ``.NAME.<random>.npgpt-tmp`` behind; the next writer of the same file removes it. A symbolic link stays a
    link: the file that it points to is replaced. Raises OSError, as ``open`` does.
    """
    target = Path(os.path.realpath(path))
    with _temporary(target, Path.touch) as temporary:
        try:
            with open(temporary, "r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno == errno.ENOSPC:
                error.filename = str(path)  # writing knows no name
            raise
        os.replace(temporary, target)


@contextmanager
def checkpoint_file(path: str | Path) -> Iterator[BinaryIO]:
    """As ``atomic_write``, but what the system refuses is a CheckpointError."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written: {error.strerror}") from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder to write files into; it takes the name ``path`` when the block ends, and only if it ends well.

    Anything at ``path`` is a FileExistsError at once. What is written must be on the disk when the block ends, as files
    of ``atomic_write`` are. What an error or a kill leaves is as there. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _temporary(target, Path.mkdir) as temporary:
        yield temporary
        os.rename(temporary, target)


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinity are a ValueError: JSON has neither."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


@contextmanager
def _temporary(target: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside ``target``, locked; removed if the block raises."""
    _remove_leftovers(target)
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
        try:  # from before it is there: a signal may come right after
            create(path)
            with _locked(path, wait=True):
                if not path.exists():  # another writer took it for a leftover, before the lock
                    continue
                yield path
        except BaseException:
            _remove(path)
            raise
        return _sync_folder(target.parent)


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    """Mark a file or folder as being written. The system drops the lock when the process ends, however it ends.

    Raises OSError if another process has the lock, unless ``wait``.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a stranger's pipe of such a name would never open
    try:
        with suppress(OSError) if wait else nullcontext():  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed writers of ``target`` left, but nothing that a living one is still writing."""
    if fcntl is None:  # no lock tells one from the other
        return
    for path in target.parent.iterdir():
        if path.name.startswith(f".{target.name}.") and path.name.endswith(_SUFFIX):
            with suppress(OSError), _locked(path, wait=False):  # locked by its writer, or gone already
                _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows can't open a folder, and keeps renames without it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that can't sync a folder (some network ones) says EINVAL
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
