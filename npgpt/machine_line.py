"""One line about this machine for --help: how large products were made when a run last began here.

To know it takes Numba and a compiled product, and --help has time for neither. So a run that begins leaves the line in
the user's cache folder. Nothing heavy is imported.
"""

import os
from contextlib import suppress
from pathlib import Path

_LONGEST = 300  # characters of the line


def read_machine_line() -> str:
    """What ``write_machine_line`` has written last, or "" if there is nothing."""
    with suppress(OSError, RuntimeError, ValueError):
        line = _path().read_text(encoding="utf-8")[:_LONGEST].strip()
        return line if line.isprintable() else ""
    return ""


def write_machine_line(line: str) -> None:
    """Keep a line. Where it can't be written, --help does without it."""
    with suppress(OSError, RuntimeError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        _path().write_text(line + "\n", encoding="utf-8")


def _path():
    """Raises RuntimeError if the user has no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "npgpt" / "products.txt"
