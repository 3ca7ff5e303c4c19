"""What a command shows of texts that are made at the same time, and of how fast."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.generation import Token, output
from npgpt.generation.output import RULE, Page, Stopwatch


class Terminal:
    """What was written, with "|" where it was flushed."""

    def __init__(self, is_terminal=False):
        self.written, self.is_terminal = [], is_terminal

    def write(self, text):
        self.written.append(text)

    def flush(self):
        self.written.append("|")

    def isatty(self):
        return self.is_terminal

    @property
    def text(self):
        return "".join(self.written).replace("|", "")


def shown(heading, pieces, is_terminal=False) -> str:
    """pieces: (row, text, ended) in the order in which they are made."""
    terminal, before = Terminal(is_terminal), sys.stdout
    sys.stdout = terminal
    try:
        page = Page(heading)
        for piece in pieces:
            page.add(*piece)
    finally:
        sys.stdout = before
    assert not terminal.text or terminal.written[-1] == "|"
    return terminal.text


def plainly(heading, texts) -> str:
    return f"\n\n{RULE}\n".join(heading + text for text in texts) + "\n"


@given(st.lists(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_texts_stand_in_their_order_whatever_the_order_in_which_they_are_made(texts, random):
    left, made = [list(enumerate(text)) for text in texts], []
    while any(left):
        row = random.choice([row for row, pieces in enumerate(left) if pieces])
        number, piece = left[row].pop(0)
        made.append((row, piece, number == len(texts[row]) - 1))
    assert shown(">", made) == plainly(">", ["".join(text) for text in texts])


def test_a_terminal_gets_no_control_characters():
    """A model, or a stranger's prompt, could move its cursor or change its title."""
    heading, piece = "\x1b]0;owned\x07>", "a\x1b[2J\r\tb\x9b\n"
    assert shown(heading, [(0, piece, True)], is_terminal=True) == "]0;owned>a[2J\tb\n\n"
    assert shown(heading, [(0, piece, True)]) == f"{heading}{piece}\n"


def test_the_first_is_printed_as_it_is_made_and_the_next_from_when_it_has_ended():
    pieces = [(0, "a", False), (1, "x", False), (0, "b", False), (0, "c", True), (1, "y", False), (1, "z", True)]
    expected = [">", ">a", ">a", ">ab", f">abc\n\n{RULE}\n>x", f">abc\n\n{RULE}\n>xy", plainly(">", ["abc", "xyz"])]
    assert [shown(">", pieces[:n]) for n in range(7)] == expected


# Time


def token(row, ended=None):
    return Token(row, 1, ended=ended)


@pytest.fixture
def clock(monkeypatch):
    """clock.now is the time."""

    class Clock:
        now = 10.0

    monkeypatch.setattr(output, "perf_counter", lambda: Clock.now)
    return Clock


def test_only_what_making_them_takes_is_measured(clock):
    def tokens():
        for seconds, row in ((2.0, 0), (0.0, 1), (0.5, 0), (0.0, 1), (0.5, 1)):
            clock.now += seconds
            yield token(row)

    stopwatch = Stopwatch(tokens())
    rows = []
    for made in stopwatch:
        rows.append(made.row)
        clock.now += 100  # a terminal that is slow
    assert rows == [0, 1, 0, 1, 1]
    assert (stopwatch.tokens, stopwatch.seconds_to_first, stopwatch.seconds) == (5, 2.0, 3.0)
    # five tokens of two texts: the first of each came of its prompt
    assert stopwatch.summary(7) == "5 new; prefill: 7 tokens in 2.00 s (3.5/s); decoding: 3 tokens in 1.00 s (3.0/s)"


def test_one_token(clock):
    stopwatch = Stopwatch(iter([token(0, "length")]))
    assert len(list(stopwatch)) == 1
    assert stopwatch.summary(1).startswith("1 new; prefill: 1 token in 0.00 s (")
    assert "decoding" not in stopwatch.summary(1)
