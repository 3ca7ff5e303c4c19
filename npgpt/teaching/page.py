"""The page: what ``explain`` gives, in one file that needs no network.

It is made of the files in page/. What was computed is put into it as JSON, which its scripts show as text: no prompt
and no token can become markup. Two pages of the same model and prompt are the same bytes.
"""

import html
import json
import re
from importlib.resources import files
from typing import Any

SCRIPTS = ("dom.js", "heat.js", "operations.js", "story.js", "back.js")


def page(data: dict[str, Any]) -> str:
    """The page as HTML, from what ``explanation.explain`` gives."""
    parts = {
        "title": html.escape(data["prompt"]),
        "data": embedded(data),
        "style.css": _file("style.css"),
        "scripts": "\n".join(map(_file, SCRIPTS)),
    }
    return re.sub(r"\{\{([\w.]+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def embedded(value: Any) -> str:
    """JSON that may stand inside <script>: in ASCII, and without characters that mean something to HTML.

    >>> embedded({"text": "</script>"})
    '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _file(name):
    return files("npgpt.teaching").joinpath("page", name).read_text(encoding="utf-8")
