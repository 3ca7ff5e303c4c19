"""End a text where one of some strings appears."""

from collections.abc import Iterable

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
        self.strings = tuple(strings)
        if "" in self.strings:
            raise ConfigError("a string that ends a text can't be empty")
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece of text -> what can be printed now. ``found`` says whether a string has appeared."""
        text = self._held + text
        places = [(text.find(string), len(string)) for string in self.strings]
        ends = [(place + length, place) for place, length in places if place >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        keep = max((self._beginning(string, text) for string in self.strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that is still held back, when no more comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _beginning(string, text):
        """How much of a string the text ends with."""
        return max((n for n in range(1, len(string)) if text.endswith(string[:n])), default=0)


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
        self.tokenizer, self.strings, self.minimum = tokenizer, tuple(strings), minimum
        StopStrings(self.strings)  # raises now if one can't be
        self._texts: dict[int, _StoppedText] = {}

    def __call__(self, token: Token) -> bool:
        """Take a token; whether its text ends with it. <|endoftext|> is no text, and doesn't end it."""
        text = self._texts.setdefault(token.row, _StoppedText(self.tokenizer, self.strings))
        text.tokens += 1
        if token.id != self.tokenizer.end_of_text:
            piece = text.decoder.decode(token.id)
            text.certain += piece if text.tokens <= self.minimum else text.stops.push(piece)
        return text.stops.found

    def take(self, row: int, finished: bool = False) -> str:
        """The text of a row that is certain and was not taken yet; with ``finished`` all of it."""
        text = self._texts.setdefault(row, _StoppedText(self.tokenizer, self.strings))
        taken, text.certain = text.certain, ""
        return taken + text.stops.finish() if finished else taken


class _StoppedText:
    """One text, and what of it is certain and was not taken yet."""

    def __init__(self, tokenizer, strings):
        self.decoder = tokenizer.decoder()
        self.stops = StopStrings(strings)
        self.certain = ""
        self.tokens = 0
