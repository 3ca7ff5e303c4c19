"""Reporter: the report of a run, written while it goes on."""

import time
from pathlib import Path

from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.atomic import atomic_write
from npgpt.errors import CheckpointError
from npgpt.reporting import page, read_record, table
from npgpt.training.log import log

EVERY = 10.0  # seconds between reports, at least
PART = 100  # writing them takes at most a hundredth of the time


class Reporter:
    """Writes report.html and metrics.csv from metrics.jsonl now and then."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._next = 0.0
        self._news = False  # since the last report
        self._complained = False

    def update(self) -> None:
        """Note that there is something new, and write them if it is time to."""
        self._news = True
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write them if there is something new. If that fails, it is logged once: the training goes on."""
        if not self._news:
            return
        began, self._news = time.monotonic(), False
        try:
            write_report(self.folder)
        except (CheckpointError, OSError) as error:
            if not self._complained:
                log(f"the report can't be written: {error}; training goes on")
            self._complained = True
        now = time.monotonic()
        self._next = now + max(EVERY, PART * (now - began))


def write_report(run: Path) -> int:
    """Write report.html and metrics.csv of a run; returns how many lines could not be read.

    Raises CheckpointError if the folder is no run's or nothing is measured yet, OSError if it can't be written to.
    """
    record = read_record(run)
    for name in (runs.REPORT_FILE, runs.TABLE_FILE):
        if (run / name).is_symlink():  # in a stranger's folder it may lead to any file of the user's
            raise CheckpointError(f"{run / name} is a link: remove it, so that the report can be written there")
    with atomic_write(run / runs.REPORT_FILE) as file:
        file.write(page([record]).encode())
    with atomic_write(run / runs.TABLE_FILE) as file:
        file.writelines(line.encode() for line in table(record))
    return record.skipped
