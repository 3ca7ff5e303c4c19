"""What a run tells while it goes: lines on stderr, metrics.jsonl, and the wish to stop."""

import json
import signal
import sys
import unicodedata
from pathlib import Path

from npgpt.checkpoints.shared.atomic import atomic_write
from npgpt.errors import CheckpointError


def log(line: str) -> None:
    """Progress goes to stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def log_text(text: str) -> None:
    """Log a text that the model made, indented, without control characters: a terminal would obey them."""
    shown = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    log("    | " + shown.replace("\n", "\n    | "))


def minutes(seconds: float) -> str:
    """75 -> 1:15, 3675 -> 1:01:15"""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Metrics:
    """metrics.jsonl: one JSON object a line, each with the step after which it was written."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, values: dict) -> None:
        """Append a line. Raises CheckpointError if the file can't be written."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values, ensure_ascii=False) + "\n")
        except OSError as error:
            raise CheckpointError(f"{self.path} can't be written: {error.strerror}") from None

    def forget_after(self, step: int, looked: bool) -> None:
        """Drop what was written after ``step`` by a run that then lost it: what follows writes it again.

        looked      whether the run had evaluated or sampled after this step when it was saved, and won't do so again
        """
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028 and the like
            try:
                values = json.loads(line)
                if values["step"] < step or (values["step"] == step and (looked or values["kind"] == "train")):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # a line that a kill cut short
                continue
        with atomic_write(self.path) as file:
            file.write("".join(kept).encode())


class StopRequest:
    """Within ``with StopRequest() as stop:`` Ctrl-C and SIGTERM set stop.requested; a second one ends the process."""

    def __init__(self):
        self.requested = False

    def __enter__(self):
        self._before = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log("stopping after this step (again to stop at once, without saving)")
