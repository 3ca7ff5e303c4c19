"""What a run tells while it trains: lines on stderr, and metrics.jsonl."""

import json
import sys
import unicodedata
from pathlib import Path

from npgpt.checkpoints.shared.atomic import atomic_write


def log(line: str) -> None:
    """Print a line of progress to stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def log_text(text: str) -> None:
    """Log a text that the model made, indented, without control characters: a terminal would obey them."""
    shown = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    log("    | " + shown.replace("\n", "\n    | "))


def format_duration(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any.

    >>> format_duration(75), format_duration(3675)
    ('1:15', '1:01:15')
    """
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def format_count(number: float) -> str:
    """Three digits, four below 10k.

    >>> format_count(9999), format_count(61440)
    ('9999', '61.4k')
    """
    for unit, size, least in (("G", 1e9, 999.5e6), ("M", 1e6, 999.5e3), ("k", 1e3, 9999.5)):
        if number >= least:  # which rounds to 1.00 of the unit, to 10.0 of k
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


class Metrics:
    """metrics.jsonl: one JSON object a line, each with its kind and the step after which it was written."""

    def __init__(self, path: Path):
        self.path = path
        self._complained = False

    def write(self, kind: str, step: int, **values: float | str) -> None:
        """Append a line. A line that can't be written is lost, which is logged once: the training goes on."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False) + "\n")
        except OSError as error:
            if not self._complained:
                log(f"{self.path} can't be written: {error.strerror}; training goes on, and lines are missing there")
            self._complained = True

    def truncate(self, last_steps: dict[str, int]) -> None:
        """Remove each kind's lines after its last step: those steps were lost and will be logged again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028 and the like
            try:
                values = json.loads(line)
                if values["step"] <= last_steps[values["kind"]]:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # a line that a kill cut short
                continue
        with atomic_write(self.path) as file:
            file.write("".join(kept).encode())
