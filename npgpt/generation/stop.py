"""End a text where one of some strings appears."""

from collections.abc import Iterable
from functools import lru_cache

from npgpt.errors import ConfigError
from npgpt.generation.token import Token
from npgpt.text.tokenizers import Tokenizer


class StopStrings:
    """Passes text on up to, and without, the first of some strings that is complete.

    What could be the beginning of one is held back until it is clear that it isn't, so a string that is spread over
    several tokens is never printed in part. The result doesn't depend on the pieces that the text comes in: the text
    ends before the string whose last character comes first, and of several that end there before the longest.

    >>> end = StopStrings(["END", "\\n\\n"])
    >>> end.push("the E"), end.push("NDs"), end.found
    ('the ', '', True)
    """

    def __init__(self, strings: Iterable[str] = ()):
        """strings: none of them: everything passes. Raises ConfigError on an empty one."""
        if isinstance(strings, str):
            raise ConfigError("strings that end a text are a list of strings")
        self.strings = tuple(strings)
        if "" in self.strings:
            raise ConfigError("a string that ends a text can't be empty")
        self.found = False
        self._lengths = [0] * len(self.strings)  # how much of each the text ends with
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece of text -> what can be printed now. ``found`` says whether a string has appeared."""
        before, self._held = self._held, ""
        for i, character in enumerate(text, 1):
            states = zip(self.strings, self._lengths, strict=True)
            self._lengths = [_advance(string, length, character) for string, length in states]
            complete = [n for n, string in zip(self._lengths, self.strings, strict=True) if n == len(string)]
            if complete:
                self.found = True
                return (before + text[:i])[: -max(complete)]
        text = before + text
        keep = max(self._lengths, default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that is still held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _advance(string: str, length: int, character: str) -> int:
    """A text ends with the first ``length`` characters of the string. -> how many it ends with after one more character

    If the character doesn't fit, the text may still end with a shorter beginning. Which one is known from the string
    alone, so a long string takes no longer than a short one (Knuth, Morris & Pratt 1977).
    """
    if length == len(string):
        length = _shorter(string)[length]
    while length and string[length] != character:
        length = _shorter(string)[length]
    return length + (string[length] == character)


@lru_cache(maxsize=1024)
def _shorter(string: str) -> list[int]:
    """[n]: the longest beginning of the string that its first n characters end with, of fewer than n."""
    found = [0, 0]
    for n in range(1, len(string)):
        length = found[n]
        while length and string[length] != string[n]:
            length = found[length]
        found.append(length + (string[length] == string[n]))
    return found


class StopTexts:
    """For ``stream(stop_if=...)``: turns each text's tokens into text, and ends it where one of some strings appears.

    In a text's first ``minimum`` tokens no string is looked for: it can't end before.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> stops = StopTexts(ByteTokenizer(), ["END"])
    >>> [stops(Token(0, id)) for id in b"a END"]
    [False, False, False, False, True]
    >>> stops.take(0)
    'a '
    """

    def __init__(self, tokenizer: Tokenizer, strings: Iterable[str] = (), minimum: int = 0):
        self.tokenizer, self.strings, self.minimum = tokenizer, StopStrings(strings).strings, minimum
        self._texts: dict[int, _StoppedText] = {}

    def __call__(self, token: Token) -> bool:
        """Take a token; whether its text ends with it. <|endoftext|> is no text, and doesn't end it."""
        text = self._text(token.row)
        text.tokens += 1
        if token.id != self.tokenizer.end_of_text:
            piece = text.decoder.decode(token.id)
            text.certain += piece if text.tokens <= self.minimum else text.stops.push(piece)
        return text.stops.found

    def take(self, row: int, finished: bool = False) -> str:
        """The text of a row that is certain and was not taken yet; with ``finished`` all of it."""
        text = self._text(row)
        taken, text.certain = text.certain, ""
        return taken + text.stops.finish() if finished else taken

    def _text(self, row):
        if row not in self._texts:
            self._texts[row] = _StoppedText(self.tokenizer, self.strings)
        return self._texts[row]


class _StoppedText:
    """One text, and what of it is certain and was not taken yet."""

    def __init__(self, tokenizer, strings):
        self.decoder = tokenizer.decoder()
        self.stops = StopStrings(strings)
        self.certain = ""
        self.tokens = 0
