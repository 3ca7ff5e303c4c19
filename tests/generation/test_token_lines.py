"""Tokens as lines: 80 columns, whatever bytes they are of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.generation import Token
from npgpt.generation.token_lines import COLUMNS, HEADER, columns, token_line, visible
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b" the", '" the"'), (b"\n\t", r'"\n\t"'), (b'"\\', r'"\"\\"'), (b"\x1b[31m", r'"\x1b[31m"'),
        ("né".encode(), '"né"'), (b"\xc3", r'"\xc3"'), (b"\xa9x\xe5\xad", r'"\xa9x\xe5\xad"'), ("字".encode(), '"字"'),
        ("\u00a0\u200b\u202e".encode(), r'"\u00a0\u200b\u202e"'), ("e\u0301".encode(), r'"e\u0301"'), (b"", '""'),
        ("\U0001f600".encode(), '"\U0001f600"'),
    ],
)  # fmt: skip
def test_bytes_that_can_be_seen(data, shown):
    """No control character, no character that turns the text's direction, no half character reaches the terminal."""
    assert visible(data) == shown


def test_what_is_shown_says_which_bytes_they_are():
    tokenizer = GPT2Tokenizer()
    shown = {visible(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)}
    assert len(shown) == tokenizer.vocab_size
    assert all(text.isprintable() for text in shown)


def test_a_line():
    tokenizer = CharTokenizer("abc字")
    likeliest = tuple((id, math.log(p)) for id, p in ((3, 0.5), (0, 0.25), (1, 0.2), (2, 1e-6)))
    assert token_line(Token(0, 0, math.log(0.25), likeliest), tokenizer) == (
        '"a"                            25%  "字" 50%  "b" 20%  "c" 0.0001%'
    )
    assert token_line(Token(0, 3, 0.0), tokenizer) == '"字"                          100%'  # the character is wide
    full = token_line(Token(0, 0, math.log(0.25), 6 * ((1, math.log(0.1)),)), tokenizer)
    assert (full.count('"b" 10%'), len(full)) == (5, COLUMNS)
    assert columns("字Ａａa") == 7
    assert HEADER == "token                  probability  others"


@given(st.integers(0, 50256), st.lists(st.integers(0, 50300), max_size=8), st.floats(-50, 0))
def test_no_line_is_longer_than_a_terminal(id, others, logprob):
    line = token_line(Token(0, id, logprob, tuple((other, logprob) for other in others)), GPT2Tokenizer())
    assert columns(line) <= COLUMNS < 80
    assert line.isprintable()
    assert line[:1] == '"'


def test_what_has_no_room_is_left_out_or_cut():
    tokenizer = GPT2Tokenizer()
    (long,) = (id for id in range(50000) if tokenizer.token_bytes(id) == b" externalToEVAOnly")
    line = token_line(Token(0, 464, math.log(0.5), tuple((long, math.log(0.1)) for _ in range(9))), tokenizer)
    assert line.count('" externalToE... 10%') == 2
    others = tuple((other, math.log(0.1)) for other in (257, long, long, 257))
    line = token_line(Token(0, 464, math.log(0.5), others), tokenizer)
    assert line.endswith('  " a" 10%  " externalToE... 10%')  # the last would fit, but what is likelier is left out
    (rule,) = (id for id in range(50000) if tokenizer.token_bytes(id) == b"-" * 64)
    assert token_line(Token(0, rule, 0.0), tokenizer) == '"' + "-" * 18 + "...        100%"


def test_an_id_that_is_no_token():
    """A model's vocabulary may be padded."""
    assert token_line(Token(0, 300, 0.0), ByteTokenizer()).startswith('"<300>" ')
