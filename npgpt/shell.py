"""Commands as they can be typed into this system's shell, and names of paths. Nothing heavy is imported."""

import shlex
import subprocess
import sys
from collections.abc import Iterable
from os import PathLike
from pathlib import Path


def joined(words: Iterable[str]) -> str:
    """A command of these words, with the quotation marks that it needs.

    ["npgpt.train", "my text.txt"] -> npgpt.train 'my text.txt', and on Windows npgpt.train "my text.txt"
    """
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def quoted(path: str | PathLike[str]) -> str:
    """A path as it must be typed: runs/my text -> 'runs/my text', and -x -> ./-x, which is no flag"""
    name = str(path)
    return joined([f"./{name}" if name.startswith("-") else name])


def name_of(path: Path) -> str:
    """What a folder or file is called, also if it is named "." or by a link. On Linux its bytes may be no text."""
    return path.resolve().name.encode(errors="replace").decode()
