"""A page that is one file and needs no network, made of the files of a folder. Nothing heavy is imported.

Data is put into it as JSON, which the page's scripts show as text: no name, no prompt and no sample can become markup.
"""

import html
import json
import re
from importlib.resources.abc import Traversable
from typing import Any


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


def embedded(value: Any) -> str:
    """JSON that may stand inside <script>: in ASCII, and without characters that mean something to HTML.

    >>> embedded({"text": "</script>\\u2028"})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u2028"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
