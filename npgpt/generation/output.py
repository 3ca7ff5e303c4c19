"""What a command shows of texts while they are made: one after the other, and how fast."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import perf_counter

from npgpt.generation.token import Token
from npgpt.streams import without_control

RULE = "-" * 40  # between texts


class Page:
    """Prints texts that are made at the same time one after the other, from row 0 on.

    The first is printed as it is made, and when it has ended, what the next has got meanwhile, and so on. A terminal
    gets no control characters; files and pipes get the text as it is.

    >>> page = Page("One")
    One
    >>> for row, text, ended in [(0, " is", False), (1, " or two", True), (0, " first", True)]:
    ...     page.add(row, text, ended)
     is first
    <BLANKLINE>
    ----------------------------------------
    One or two
    """

    def __init__(self, heading: str):
        """heading: stands before each text; that of the first one is printed now."""
        self._shown = without_control if sys.stdout.isatty() else str
        self.heading = self._shown(heading)
        self._row, self._headed = 0, True
        self._waiting: dict[int, str] = {}
        self._ended: set[int] = set()
        print(self.heading, end="", flush=True)

    def add(self, row: int, text: str, ended: bool) -> None:
        """Take the next piece of a text, and whether it is the last."""
        self._waiting[row] = self._waiting.get(row, "") + self._shown(text)
        if ended:
            self._ended.add(row)
        while self._row in self._waiting:
            if not self._headed:
                print(f"\n{RULE}\n{self.heading}", end="")
            complete = self._row in self._ended
            print(self._waiting.pop(self._row), end="\n" if complete else "", flush=True)
            self._row, self._headed = self._row + complete, not complete

    def break_off(self) -> None:
        """The texts end here: what is said next to a terminal stands on a line of its own."""
        with suppress(OSError):  # the terminal was closed
            if sys.stdout.isatty():
                print(flush=True)


class Stopwatch:
    """Passes tokens on, and measures how long it takes to make them: not what is done with them meanwhile."""

    def __init__(self, tokens: Iterable[Token]):
        self._tokens = tokens
        self.tokens = 0
        self.rows: set[int] = set()
        self.seconds_to_first = self.seconds = 0.0

    def __iter__(self) -> Iterator[Token]:
        begin = perf_counter()
        for token in self._tokens:
            self.seconds += perf_counter() - begin
            if not self.tokens:
                self.seconds_to_first = self.seconds
            self.tokens += 1
            self.rows.add(token.row)
            yield token
            begin = perf_counter()

    def summary(self, prompt: int) -> str:
        """One line; ``prompt``: the tokens that went through the model before the first new one was drawn.

        Each text's first token comes of its prompt, so one token less of each text is decoded.
        """
        decoded, seconds = self.tokens - len(self.rows), self.seconds - self.seconds_to_first
        line = f"{self.tokens:,} new; prefill: {_rate(prompt, self.seconds_to_first)}"
        return f"{line}; decoding: {_rate(decoded, seconds)}" if decoded else line


def _rate(n, seconds):
    return f"{n:,} token{'s' * (n != 1)} in {seconds:.2f} s ({n / max(seconds, 1e-9):.1f}/s)"
