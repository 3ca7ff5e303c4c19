"""Event files for TensorBoard, written by its own writer (extra ``tensorboard``)."""

import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from npgpt.errors import ConfigError
from npgpt.training.log import log


class EventFiles:
    """events.out.tfevents.* in a run's folder; ``tensorboard --logdir runs`` shows all runs.

    Each number of metrics.jsonl is a scalar (train/loss, eval/val_loss, gradient/h.0), each sample a text. A process
    that resumes a run begins a file of its own, whose first event takes back what was logged for later steps.

    Raises ConfigError without the package.
    """

    def __init__(self, folder: Path, step: int):
        """step: the steps done so far"""
        check_installed()
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))
        self._complained = False
        self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add a line of metrics.jsonl. If that fails, it is logged once: the training goes on."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.summary_v2 import text_pb

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _numbers(kind, values)]
        try:
            if scalars:
                self._add(step, summary=Summary(value=scalars))
            if kind == "sample":
                self._add(step, summary=text_pb("sample", values["text"]))
        except OSError as error:
            if not self._complained:
                log(f"TensorBoard's file can't be written: {error.strerror}; training goes on, and events are missing")
            self._complained = True

    def close(self) -> None:
        """Write what is still in memory."""
        with suppress(OSError):
            self._writer.close()

    def _add(self, step, **what):
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(step=step, wall_time=time.time(), **what))


def check_installed() -> None:
    """Raise ConfigError without TensorBoard's package."""
    if find_spec("tensorboard") is None:
        raise ConfigError("--tensorboard needs the tensorboard package: pip install 'npgpt[tensorboard]'")


def _numbers(kind, values):
    """(tag, number): kind/name, and name/part of several that have names of their own, as layers."""
    for name, value in values.items():
        named = value if isinstance(value, dict) else {}
        group, numbers = (name, named) if named else (kind, {name: value})
        yield from ((f"{group}/{part}", x) for part, x in numbers.items() if isinstance(x, int | float))
