"""A text while it is written: each piece with its probability, and the prompt's end before it."""

import math
import re

from npgpt.generation import Token
from npgpt.notebook.written import PROMPT_SHOWN, WrittenText
from npgpt.text.tokenizers import ByteTokenizer


def test_a_piece_has_the_probability_of_its_own_tokens():
    """A character of several tokens has the product of theirs, and the end of a text is no piece."""
    text = WrittenText("", ByteTokenizer())
    for id, p in [(ord("a"), 0.5), *zip("€".encode(), (0.5, 0.5, 1.0), strict=True), (ord("b"), 0.012), (256, 0.5)]:
        text.add(Token(0, id, math.log(p)))
    assert text.plain == "a€b"
    pieces = re.findall(r'<span class="npgpt-(\d)" title="(.*?)">(.*?)</span>', text.html(coloured=True))
    assert pieces == [("0", "50%", "a"), ("1", "25%", "€"), ("3", "1.2%", "b")]


def test_of_a_long_prompt_the_end_is_shown():
    long = "x" * 50 + "y" * PROMPT_SHOWN
    assert "x" not in (shown := re.sub("<[^>]*>", "", WrittenText(long, ByteTokenizer()).html()))
    assert shown == "…" + "y" * PROMPT_SHOWN
    assert WrittenText(long[50:], ByteTokenizer()).html().count("…") == 0
