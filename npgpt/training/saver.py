"""Saver: when a run is saved, how many earlier states are kept, and what happens where there is no room for it."""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from npgpt.checkpoints import run_states, runs
from npgpt.errors import CheckpointError, RunError
from npgpt.optim import AdamW
from npgpt.training.log import log
from npgpt.training.trainable import StoredModel

SAVE_EVERY = 60.0  # seconds between saves
PART = 20  # saving takes at most a twentieth of the time


class Saver:
    """Writes last.safetensors, from which training is resumed, and best.safetensors, the best weights.

    state       gives all state but the weights and the optimizer's arrays; its "step" names the earlier ones
    describe    writes to a folder what makes it a run: configuration and tokenizer
    keep        so many earlier states stay beside the last one, so that one damaged file does not end the run
    on_disk     the step of the last.safetensors that is there and is whole; None if there is none

    Time alone decides when a state is saved. A kill loses no more than what was trained since the last save. Where the
    folder can't be written (it is full, or gone, or not ours any more), that is said, training goes on with the last
    good state on the disk, and it is tried again at the next time. At the end it is saved elsewhere, if need be.
    """

    def __init__(
        self,
        folder: Path,
        model: StoredModel,
        optimizer: AdamW,
        state: Callable[[], dict[str, Any]],
        describe: Callable[[Path], None],
        keep: int,
        on_disk: int | None = None,
    ):
        self.folder, self.model, self.optimizer, self.state, self.describe = folder, model, optimizer, state, describe
        self.keep, self.on_disk = keep, on_disk
        self.seconds = 0.0  # that the last save took
        self.start()

    def start(self) -> None:
        """Count time from now on."""
        self._next_save = time.monotonic() + max(SAVE_EVERY, PART * self.seconds)

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() > self._next_save

    def save_first(self) -> None:
        """Write the state of a new run. Raises CheckpointError."""
        began = time.monotonic()
        self._write_next()
        self.seconds = time.monotonic() - began

    def save(self) -> None:
        """Write last.safetensors. If that fails, training goes on, and it is tried again later."""
        began = time.monotonic()
        try:
            self._write_next()
        except CheckpointError as error:
            log(f"{error}; training goes on")
        self.seconds = time.monotonic() - began
        self.start()

    def save_best(self) -> None:
        """Write best.safetensors. If that fails, training goes on."""
        try:
            best, weights = self.folder / runs.BEST_FILE, self.model.state_dict()
            runs.save_weights(best, weights, self.model.config, self.model.metadata())
        except CheckpointError as error:
            log(f"{error}; training goes on")

    def save_at_end(self) -> None:
        """Write last.safetensors. If that fails, write the run to another folder, and raise RunError."""
        try:
            self._write_next()
        except CheckpointError as error:
            log(str(error))
            elsewhere = self._save_elsewhere()
            advice = f"Go on from there with --resume {elsewhere}, or move its {runs.LAST_FILE} here."
            raise RunError(f"{self.folder} is not up to date: the run was saved in {elsewhere}.\n{advice}") from error

    def _write_next(self):
        """Write last.safetensors while the one before keeps a name of its own, and remove what is too old."""
        step = self.state()["step"]
        self._remove_old()  # what a kill between a save and the end of this has left
        if self.keep and self.on_disk not in (None, step):
            run_states.keep_last(self.folder, self.on_disk)
        self._write(self.folder)
        self.on_disk = step
        self._remove_old()

    def _remove_old(self):
        with suppress(OSError):  # the folder can't be listed: the write beside this says so
            for path in run_states.state_files(self.folder)[1 + self.keep :]:
                with suppress(OSError):
                    path.unlink()

    def _write(self, folder):
        weights, moments = self.model.state_dict(), self.optimizer.state_dict()
        config, metadata = self.model.config, self.model.metadata()
        self.model.write_beside(folder)
        runs.save_checkpoint(folder / runs.LAST_FILE, weights, moments, self.state(), config, metadata)

    def _save_elsewhere(self) -> Path:
        """A new folder with the run, in the first place that has room. Raises RunError if none has."""
        for place in (tempfile.gettempdir, Path.home, Path.cwd):
            try:
                elsewhere = Path(tempfile.mkdtemp(prefix="npgpt-", dir=place()))
            except (OSError, RuntimeError) as error:  # there may be no home, and the working folder may be gone
                failed: Exception = error
                continue
            try:
                self._write(elsewhere)
                self.describe(elsewhere)
                return elsewhere
            except (CheckpointError, OSError) as error:
                failed = error
                shutil.rmtree(elsewhere, ignore_errors=True)
        raise RunError(f"and nowhere else, so what was trained since the last save is lost: {failed}")


def check_room(folder: Path, model: StoredModel, optimizer: AdamW, keep: int) -> None:
    """Raise RunError unless there is room for what a run writes to ``folder``, which need not exist yet.

    That is best.safetensors, last.safetensors and ``keep`` earlier ones, and one more state: a new one takes the last
    one's place when it is complete.
    """
    weights, moments = _nbytes(model.state_dict()), _nbytes(optimizer.state_dict())
    files = [path for path in (*run_states.state_files(folder), folder / runs.BEST_FILE) if path.exists()]
    there = {(status.st_dev, status.st_ino): status.st_size for status in (path.stat() for path in files)}
    needed = (2 + keep) * (weights + moments) + weights - sum(there.values())
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # some file systems don't know, and say 0
        sizes = f"{disk.free / 1e6:,.1f} MB are free there, and the run will write {needed / 1e6:,.1f} MB"
        raise RunError(f"{folder}: {sizes}.\nMake room, name a folder on another disk with --out, or give --keep 0.")


def _nbytes(arrays):
    return sum(array.nbytes for array in arrays.values())
