"""A run's folder while it is trained: made, described by its config.json, and locked. checkpoints/runs.py reads it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npgpt.checkpoints.runs import CONFIG_FILE, RUN_FORMAT
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, RunError
from npgpt.training.plan import Plan

try:
    import fcntl
except ImportError:  # Windows, where a file that somebody has open can't be removed anyway
    fcntl = None

LOCK_FILE = ".lock"


def create_run(out: str | Path, exact: bool = False) -> Path:
    """Make a new folder for a run and return it; a folder that is already there is never used again.

    If ``out`` is taken, ``out-2``, ``out-3``, ... are tried; mkdir decides, so two runs that start together get two
    folders. With ``exact`` (the user named the folder), it is that one or a RunError; it may be there if it is empty.
    Raises RunError if the folder can't be made.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if exact:
            out.mkdir(exist_ok=True)
            if any(out.iterdir()):
                raise RunError(_taken(out))
            return out
        number = 1
        while True:
            run = out if number == 1 else out.with_name(f"{out.name}-{number}")
            try:
                run.mkdir()
                return run
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunError(f"{out}: a folder can't be made there: {error.strerror}") from None


def check_can_create(out: str | Path, exact: bool) -> None:
    """Raise the RunError that ``create_run`` would, without making anything: before the work, not after it."""
    out = Path(out)
    if exact and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(_taken(out))
    above = out.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"{out}: a folder can't be made there: {above} is not a folder that you may write to")


def _taken(out: Path) -> str:
    resume = f", or --resume {out}" if out.is_dir() else ""
    return f"{out} is there already: name a new folder{resume}"


def write_run_config(run: str | Path, config: GPTConfig, asked: dict[str, Any], plan: Plan) -> None:
    """Write config.json: the model's configuration, the settings that were asked for, and the plan made of them."""
    path = Path(run) / CONFIG_FILE
    values = {"format": RUN_FORMAT, "model": config.to_dict(), "training": asked, "plan": asdict(plan)}
    try:
        write_json(path, values)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written: {error.strerror}") from error


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Only one process at a time is within ``with locked(run):``. Raises RunError, which names the other one.

    The operating system drops the lock when the process ends, however it ends. The file stays, and means nothing then.
    """
    path = run / LOCK_FILE
    try:
        if fcntl is None:
            path.unlink(missing_ok=True)
        file = open(path, "a+", encoding="ascii")  # noqa: SIM115
        if fcntl is not None:
            _lock(file)
    except OSError as error:
        if isinstance(error, BlockingIOError) or (fcntl is None and path.exists()):
            raise _in_progress(run, path) from None
        raise RunError(f"{run}: can't be written to: {error.strerror}") from None
    with file:
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield


def _lock(file) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:  # some network file systems have no locks
        pass


def _in_progress(run: Path, lock: Path) -> RunError:
    process = lock.read_text(encoding="ascii", errors="replace")[:20].strip()
    return RunError(f"{run}: this run is in progress{f' (process {process})' if process.isdecimal() else ''}")
