"""Standard output and messages that can't end a command: streams that are closed, or whose reader has gone."""

import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


def without_control(text: str) -> str:
    """A text without the characters with which it could move a terminal's cursor, or change its title.

    >>> without_control("a\\x1b[2Jb")
    'a[2Jb'
    """
    return _CONTROL.sub("", text)


class Messages:
    """A stream for messages. Once nobody can read it, a closed terminal or pipe, what is written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        nowhere = _nowhere()
        with suppress(OSError):  # discards what is buffered: if it can't be written, Python ends with exit code 120
            os.dup2(nowhere.fileno(), self._stream.fileno())
        self._stream = nowhere

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _ClosedOutput(io.TextIOBase):
    """Standard output of a command that was started without it."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


@contextmanager
def standard_streams() -> Iterator[None]:
    """Within it there are sys.stdout and sys.stderr, even if the command was started without them (``>&-``).

    Then messages are dropped, and output is an OSError, as in other Unix programs: a result that is lost is a failure.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:  # or the next file would get a stream's number
        pass
    os.close(descriptor)
    before = sys.stdout, sys.stderr
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # rather than fail on a character that the terminal doesn't have
    sys.stderr = Messages(sys.stderr or _nowhere())  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
