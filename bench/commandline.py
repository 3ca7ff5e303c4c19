"""Shared by all commands here: flags, peers, errors, tables and JSON files."""

import argparse
import json
import os
import signal
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from bench.peers.table import PEERS
from bench.processes import ProcessFailed, say
from npgpt import commandline, process
from npgpt.errors import ConfigError

ALONE = "To measure npgpt alone: --peer none"


class Parser(commandline.Parser):
    """npgpt's parser, for ``python -m bench.NAME``."""

    def __init__(self, name: str, description: str):
        super().__init__(name, description)
        self.prog = f"python -m bench.{name}"


def run(main) -> None:
    """Run a command's ``main`` and leave: 0, 1 if the measurement failed or is void, 2 if the user made a mistake.

    SIGTERM is handled like Ctrl-C, so that measured processes end and temporary folders are removed.
    """

    def guarded():
        try:
            return main()
        except ProcessFailed as error:
            say(f"error: {error}")
            return 1

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process.run(guarded)


def names_of(known: Iterable[str]) -> commandline.FlagType:
    """A flag's type: some of these names with commas between them, or "none". ``peers`` makes a list of it."""

    def read(text):
        for name in peers(text):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}, none")
        return text

    return commandline.FlagType("NAME,...", read)


peer_names = names_of(PEERS)


def peers(text: str) -> list[str]:
    return [] if text == "none" else list(dict.fromkeys(text.split(",")))


def check_peer(text: str) -> None:
    """Raise ConfigError unless the packages and the compiler that the peers need are installed."""
    for name in peers(text):
        check_installed(name, "torch", "safetensors")
        compiler = os.environ.get("CXX", "g++")
        if PEERS[name].compile and not which(compiler):
            raise ConfigError(f"--peer {name} needs a C++ compiler, and there is no {compiler} here\n{ALONE}")


def check_installed(peer: str, *packages: str) -> None:
    """Raise ConfigError unless these packages, which the peer needs, are installed."""
    if missing := [name for name in packages if not find_spec(name)]:
        raise ConfigError(f"--peer {peer} needs {' and '.join(missing)}: pip install -e '.[reference]'\n{ALONE}")


def check_json_path(path: str | None) -> None:
    """Raise ConfigError, before any work is done, if the results can't be written there."""
    if path is None:
        return
    existed = os.path.exists(path)
    try:
        with open(path, "a"):
            pass
        if not existed:
            os.unlink(path)
    except OSError as error:
        raise ConfigError(f"--json {path}: can't be written: {error.strerror}") from None


def write_json(path: str | None, results: dict) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table: the first column aligned to the left, the others to the right."""
    widths = [max(2, *map(len, column)) for column in zip(header, *rows, strict=True)]  # 2: -: is the shortest rule
    rules = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in (header, *rows)]  # fmt: skip
    lines.insert(1, rules)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
