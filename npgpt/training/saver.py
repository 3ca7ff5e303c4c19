"""Saver: when a run is saved, and what happens where there is no room for it."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgpt.checkpoints import runs
from npgpt.errors import CheckpointError, RunError
from npgpt.optim import AdamW
from npgpt.training.log import log
from npgpt.training.trainable import StoredModel

SAVE_EVERY = 60.0  # seconds between saves
PART = 20  # saving takes at most a twentieth of the time
DISK_SPEED = 1e9  # bytes per second, until a save has shown how fast the disk is


class Saver:
    """Writes last.safetensors, from which training is resumed, and best.safetensors, the best weights.

    state       gives all state but the weights and the optimizer's arrays

    The first save comes as soon as it costs no more than its part of the time: a kill leaves something to resume.
    """

    def __init__(self, folder: Path, model: StoredModel, optimizer: AdamW, state: Callable[[], dict[str, Any]]):
        self.folder, self.model, self.optimizer, self.state = folder, model, optimizer, state
        self.start()

    def start(self) -> None:
        """Count time from now on: again after compiling, before which a kill loses nothing."""
        size = _nbytes(self.model.state_dict()) + _nbytes(self.optimizer.state_dict())
        self._next_save = time.monotonic() + PART * size / DISK_SPEED

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() > self._next_save

    def save(self) -> None:
        """Write last.safetensors. If that fails, training goes on, and it is tried again later."""
        began = time.monotonic()
        try:
            self._write(self.folder)
        except CheckpointError as error:
            log(f"{error}; training goes on")
        now = time.monotonic()
        self._next_save = now + max(SAVE_EVERY, PART * (now - began))

    def save_best(self) -> None:
        """Write best.safetensors. If that fails, training goes on."""
        try:
            best, weights = self.folder / runs.BEST_FILE, self.model.state_dict()
            runs.save_weights(best, weights, self.model.config, self.model.metadata())
        except CheckpointError as error:
            log(f"{error}; training goes on")

    def save_at_end(self) -> None:
        """Write last.safetensors. If that fails, write it to a temporary folder, and raise RunError."""
        try:
            self._write(self.folder)
        except CheckpointError as error:
            log(str(error))
            elsewhere = Path(tempfile.mkdtemp(prefix="npgpt-"))
            self._write(elsewhere)
            saved = elsewhere / runs.LAST_FILE
            raise RunError(f"{self.folder} is not up to date. Make room, and move {saved} there.") from error

    def _write(self, folder):
        weights, moments = self.model.state_dict(), self.optimizer.state_dict()
        config, metadata = self.model.config, self.model.metadata()
        runs.save_checkpoint(folder / runs.LAST_FILE, weights, moments, self.state(), config, metadata)
        self.model.write_beside(folder)


def check_room(folder: Path, model: StoredModel, optimizer: AdamW) -> None:
    """Raise RunError unless there is room for what a run writes to ``folder``, which need not exist yet.

    That is best.safetensors, and last.safetensors twice: a new one takes the old one's place when it is complete.
    """
    weights, moments = _nbytes(model.state_dict()), _nbytes(optimizer.state_dict())
    files = [folder / name for name in (runs.LAST_FILE, runs.BEST_FILE)]
    needed = 2 * (weights + moments) + weights - sum(file.stat().st_size for file in files if file.exists())
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # some file systems don't know, and say 0
        sizes = f"{disk.free / 1e6:,.1f} MB are free there, and the run will write {needed / 1e6:,.1f} MB"
        raise RunError(f"{folder}: {sizes}.\nMake room, or name a folder on another disk with --out.")


def _nbytes(arrays):
    return sum(array.nbytes for array in arrays.values())
