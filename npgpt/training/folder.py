"""A run's folder while it is trained: made, described by its config.json, and locked. checkpoints/runs.py reads it."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npgpt.adapters import peft
from npgpt.checkpoints.runs import BEST_FILE, CONFIG_FILE, METRICS_FILE, RUN_FORMAT
from npgpt.checkpoints.shared.atomic import checkpoint_file
from npgpt.config import GPTConfig
from npgpt.errors import RunError
from npgpt.shell import quoted
from npgpt.training.plan import Plan

LOCK_FILE = ".lock"
WRITTEN = (LOCK_FILE, CONFIG_FILE, METRICS_FILE, BEST_FILE, peft.CONFIG_FILE, peft.WEIGHTS_FILE)
NOT_SAVED = "holds a run that has not saved itself yet; if it was killed, remove that folder"


def create_run(out: Path, exact: bool = False) -> Path:
    """Make a new folder for a run and return it: ``out``, or if that is taken ``out-2``, ``out-3``, ...

    mkdir decides, so two runs that start together get two folders. With ``exact`` (the user named the folder) it is
    ``out``, which may be there if it is empty. Raises RunError if the folder can't be made.
    """
    run, number = out, 1
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                run.mkdir()
                return run
            except FileExistsError:
                if exact:
                    check_free(out)
                    return out
                number += 1
                run = out.with_name(f"{out.name}-{number}")
    except OSError as error:
        raise RunError(f"{out}: a folder can't be made there: {error.strerror}") from None


def check_free(out: Path) -> None:
    """Raise RunError unless a run can begin at ``out``: nothing is there, or a folder that holds at most a lock.

    That folder, or else the nearest one above that exists, must be one that the user may write to.
    """
    if out.exists() and (not out.is_dir() or any(path.name != LOCK_FILE for path in out.iterdir())):
        if is_unfinished(out):
            raise RunError(f"{out} {NOT_SAVED}, or name a new one")
        resume = f", or --resume {quoted(out)}" if (out / CONFIG_FILE).exists() else ""
        raise RunError(f"{out} is there already: name a new folder{resume}")
    path = Path(os.path.abspath(out))
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise RunError(f"{out}: {there} is not a folder that you may write to. Name another one with --out")


def is_unfinished(out: Path) -> bool:
    """Whether a folder is that of a new run before its first save, or what a kill has left of one."""
    return (out / LOCK_FILE).exists() and not (out / CONFIG_FILE).exists()


def write_run_config(
    run: str | Path, config: GPTConfig, asked: dict[str, Any], plan: Plan, products: dict[str, str] | None = None
) -> None:
    """Write config.json: the model's configuration, the settings that were asked for, and the plan made of them.

    products    {precision: the way in which this machine makes large products} (products.py)
    """
    path = Path(run) / CONFIG_FILE
    values = {"format": RUN_FORMAT, "model": config.to_dict(), "training": asked, "plan": asdict(plan)}
    if products:
        values["products"] = products
    with checkpoint_file(path) as file:
        file.write(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False).encode())


def check_written(run: Path, names: Iterable[str] = WRITTEN) -> None:
    """Raise RunError if a file that training writes is a link or a pipe.

    Through a link a stranger's run could overwrite any file of the user's, and a pipe may never end. last.safetensors
    may be a link, to another disk say, if the run goes on from it.
    """
    for path in (run / name for name in names):
        if path.is_symlink():
            raise RunError(f"{path} is a link, and training would write to {os.path.realpath(path)}: remove the link")
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is not a file, and training would write to it: remove it")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Only one process at a time is within ``with locked(run):``. Raises RunError, which names the other one.

    The operating system drops the lock when the process ends, however it ends. The file stays, and means nothing then.
    """
    check_written(run, [LOCK_FILE])
    try:
        file = open(run / LOCK_FILE, "a+", encoding="ascii", errors="replace")  # noqa: SIM115
    except OSError as error:
        raise RunError(f"{run}: can't be written to: {error.strerror}") from None
    with file:
        if not _lock(file):
            file.seek(0)
            number = file.read(20).strip()  # nothing, if the other one has just got the lock
            raise RunError(f"{run}: this run is in progress{f' (process {number})' if number else ''}")
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield


def _lock(file) -> bool:
    """Whether nobody else holds the lock. Windows and some network file systems have none."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True
