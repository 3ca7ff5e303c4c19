"""What the user is told about compiling, on stderr, and how long it has taken."""

import sys
from pathlib import Path
from time import perf_counter

seconds = 0.0  # that this process has spent compiling or waiting for other processes to compile
_announced = _loss_announced = False


def announce(is_kept: bool = True) -> None:
    """Say, once in a process, that kernels are being compiled. ``is_kept``: there is a folder for them."""
    global _announced
    if not _announced:
        _announced = True
        how = "once, under half a minute; cached for the next start"
        if not is_kept:
            how = "at each start: no folder for them can be written; NUMBA_CACHE_DIR names one"
        print(f"npgpt: compiling kernels ({how})", file=sys.stderr)


def announce_loss(folder: Path, error: OSError) -> None:
    """Say, once in a process, that what it compiles is not kept."""
    global _loss_announced
    if not _loss_announced:
        _loss_announced = True
        reason = error.strerror or error
        print(f"npgpt: kernels can't be kept in {folder}: {reason}", file=sys.stderr)
        print("npgpt: the next start compiles again; NUMBA_CACHE_DIR names another folder", file=sys.stderr)


class Progress:
    """How many of ``total`` kernels are compiled: a line that a terminal updates; elsewhere the line of ``announce``.

    The cursor stays at the start of the line, so other output overwrites it instead of following it.
    """

    def __init__(self, total: int):
        global _announced
        self.total, self.began, self.shown = total, perf_counter(), None
        self.terminal = sys.stderr.isatty()
        if self.terminal:
            _announced = True
        else:
            announce()
        self.show(0)

    def show(self, done: int, end: str = "\r") -> None:
        elapsed = int(perf_counter() - self.began)
        line = f"npgpt: compiling kernels (once, then cached): {done} of {self.total}, {elapsed} s"
        if self.terminal and (line != self.shown or end == "\n"):
            print(line, end=end, file=sys.stderr, flush=True)
            self.shown = line
