"""The page: what ``explain`` gives, in one file that needs no network.

It is made of the files in page/. Two pages of the same model and prompt are the same bytes.
"""

from importlib.resources import files
from typing import Any

from npgpt.html_page import make_page

SCRIPTS = ("dom.js", "heat.js", "operations.js", "story.js", "back.js")


def page(data: dict[str, Any]) -> str:
    """The page as HTML, from what ``explanation.explain`` gives."""
    return make_page(files("npgpt.teaching") / "page", data["prompt"], data, SCRIPTS)
