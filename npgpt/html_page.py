"""A page that is one file and needs no network, made of the files of a folder. Nothing heavy is imported.

Data is put into it as JSON, which the page's scripts show as text: no name, no prompt and no sample can become markup.
"""

import html
import json
import os
import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from npgpt.errors import ConfigError

GENERATOR = '<meta name="generator" content="npgpt">'  # at the beginning of each page


def make_page(folder: Traversable, title: str, data: Any, scripts: tuple[str, ...]) -> str:
    """The folder's page.html, in which {{title}}, {{data}}, {{style.css}} and {{scripts}} stand for what they name."""
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", *scripts)}
    parts = {
        "title": html.escape(title),
        "data": embedded(data),
        "style.css": texts["style.css"],
        "scripts": "\n".join(texts[name] for name in scripts),
    }
    return re.sub(r"\{\{([\w.]+)\}\}", lambda match: parts[match[1]], texts["page.html"])


def check_page(out: str | Path) -> None:
    """Raise ConfigError unless a page can be written there: where nothing is, or an earlier page of ours."""
    out = Path(out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file with --out")
    folder = Path(os.path.realpath(out)).parent  # resolve() raises RuntimeError on a link to itself
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ConfigError(f"{out}: can't be written: {folder} is not a folder that you may write to")
    if os.path.lexists(out) and not _is_page(out):
        raise ConfigError(f"{out} is there already, and is no page of npgpt's: name another file with --out")


def _is_page(path):
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return GENERATOR.encode() in file.read(500)
    except OSError:
        return False


def embedded(value: Any) -> str:
    """JSON that may stand inside <script>: in ASCII, and without characters that mean something to HTML.

    >>> embedded({"text": "</script>\\u2028"})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u2028"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
