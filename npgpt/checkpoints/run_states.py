"""The states that a run keeps: last.safetensors and the earlier ones, and which of them is whole.

A file that is damaged is not taken: ``open_run`` and ``load_newest`` warn, and take the newest one before it.
"""

import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError, CheckpointWarning, RunError, UnreadableError

_EARLIER = re.compile(r"step-(\d{6,})\.safetensors")
_T = TypeVar("_T")


def newest_run(root: str | Path = "runs") -> Path:
    """The run in ``root`` whose training state was saved most recently. Raises CheckpointError if there is none."""
    root = Path(root)
    folders = [path.parent for path in root.glob(f"*/{runs.CONFIG_FILE}")]
    written = []
    for folder in folders:
        for file in state_files(folder):
            with suppress(FileNotFoundError):  # the run is being trained, and has just removed this one
                written.append((file.stat().st_mtime_ns, folder))
    if not written:
        raise CheckpointError(f"there is no run in {root}/ (a folder with a {runs.LAST_FILE}): train one first")
    return max(written)[1]


def state_files(run: str | Path) -> list[Path]:
    """The files from which training can go on, the newest first: last.safetensors, and the earlier ones.

    A second name of last.safetensors, which ``keep_last`` gave it, is none of them.
    """
    found = {int(match[1]): path for path in Path(run).glob("step-*") if (match := _EARLIER.fullmatch(path.name))}
    last, earlier = Path(run) / runs.LAST_FILE, [found[step] for step in sorted(found, reverse=True)]
    return [last, *(path for path in earlier if not _is_last_or_gone(path, last))] if last.exists() else earlier


def _is_last_or_gone(path, last):
    """Whether a state is last.safetensors, or was removed a moment ago by the process that trains the run."""
    try:
        return path.samefile(last)
    except FileNotFoundError:
        return True


def keep_last(run: Path, step: int) -> None:
    """Let last.safetensors, the state after step 200, be step-000200.safetensors when a newer one takes its place.

    For a moment the file has both names; where the file system can't do that, it has the new one only, so the run
    always has a state. If the write after that failed, there is no last.safetensors, and nothing to do. Raises
    CheckpointError.
    """
    last, kept = Path(os.path.realpath(run / runs.LAST_FILE)), run / f"step-{step:06}.safetensors"
    if not last.exists():
        return
    try:
        kept.unlink(missing_ok=True)
        try:
            os.link(last, kept)
        except OSError:
            os.replace(last, kept)
    except OSError as error:
        raise CheckpointError(f"{kept}: can't be written: {error.strerror}") from error


def load_newest(run: str | Path) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    """The newest state of a run that is whole: its file, weights, optimizer and state, as ``load_checkpoint`` gives.

    Raises CheckpointError, the newest file's, if none is, and RunError if one can't be read that may be whole.
    """
    files = state_files(run)
    if not files:
        raise CheckpointError(f"{run}: no {runs.LAST_FILE}: the run has not saved its state yet")
    return _first_whole(files, _load)


def _load(path):
    try:
        return path, *runs.load_checkpoint(path)
    except UnreadableError as error:
        advice = "It may be whole, and training on would replace it: make it readable, or move it away"
        raise RunError(f"{error}.\n{advice}") from None


def open_run(run: str | Path, checkpoint: str) -> Checkpoint:
    """A run's "last" or "best" weights, as ``checkpoint`` says; the next file's, if that one is missing or damaged.

    Raises CheckpointError if no file is whole.
    """
    return first_whole(run, checkpoint, lambda path: runs.read(MappedFile(path)))


def first_whole(run: str | Path, checkpoint: str, open: Callable[[Path], _T]) -> _T:
    """``open`` of the first of a run's files that it opens: in the order of ``open_run``, and with its errors."""
    best = Path(run) / runs.BEST_FILE
    files = [*state_files(run), best] if checkpoint == "last" else [best, *state_files(run)]
    files = [file for file in files if file.exists()]
    if not files:
        raise CheckpointError(f"{run}: no {runs.LAST_FILE} and no {runs.BEST_FILE}: the run has not saved anything yet")
    return _first_whole(files, open)


def _first_whole(files: list[Path], open: Callable[[Path], _T]) -> _T:
    """``open`` of the first file that it opens, with a warning about those that are damaged."""
    problems = []
    for path in files:
        try:
            opened = open(path)
        except CheckpointError as error:
            problems.append(error)
            continue
        for problem in problems:
            warnings.warn(f"{problem}\n{path.name} is taken instead", CheckpointWarning, stacklevel=3)
        return opened
    raise problems[0]
