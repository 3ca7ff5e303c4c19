"""Tokens as lines for a terminal: each with its probability, and the likeliest others in its place."""

import math
import unicodedata

from npgpt.generation.token import Token
from npgpt.text.tokenizers import Tokenizer

COLUMNS = 79
_TOKEN_COLUMNS, _OTHER_COLUMNS = 22, 16
HEADER = f"{'token':{_TOKEN_COLUMNS}} {'probability':>11}  others"


def token_line(token: Token, tokenizer: Tokenizer) -> str:
    """A token that has its ``logprob``, as a line of at most 79 columns without its end.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> token_line(Token(0, 10, math.log(0.25), ((97, math.log(0.5)), (10, math.log(0.25)))), ByteTokenizer())
    '"\\\\n"                           25%  "a" 50%'
    """
    assert token.logprob is not None
    shown = _fitted(visible(_bytes(token.id, tokenizer)), _TOKEN_COLUMNS)
    line = f"{shown} {_percent(token.logprob):>11}"
    for id, logprob in token.likeliest:
        if id != token.id:
            other = f"  {_fitted(visible(_bytes(id, tokenizer)), _OTHER_COLUMNS).rstrip()} {_percent(logprob)}"
            if columns(line) + columns(other) > COLUMNS:
                break
            line += other
    return line


def visible(data: bytes) -> str:
    """A token's bytes in quotes. What a terminal would not show as a character of its own is escaped as in Python.

    >>> print(visible(b" a\\n"), visible("é\\x1b".encode()), visible(b"\\xe5\\xad"))
    " a\\n" "é\\x1b" "\\xe5\\xad"
    """
    return '"' + "".join(map(_visible, data.decode("utf-8", errors="surrogateescape"))) + '"'


def _visible(character):
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is no UTF-8, or not all of a character
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character in '"\\':
        return "\\" + character
    if not character.isprintable() or unicodedata.category(character).startswith("M"):  # a mark sits on its neighbour
        code = ord(character)
        if code < 128:
            return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}")
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def columns(text: str) -> int:
    """The columns that a terminal needs: two for a wide character, as Chinese has them."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _percent(logprob):
    return f"{100 * math.exp(logprob):.3g}%"


def _fitted(text, width):
    """The text, cut or filled with spaces to ``width`` columns."""
    if columns(text) > width:
        while columns(text) > width - 3:
            text = text[:-1]
        text += "..."
    return text + " " * (width - columns(text))


def _bytes(id, tokenizer):
    return tokenizer.token_bytes(id) if id < tokenizer.vocab_size else f"<{id}>".encode()
