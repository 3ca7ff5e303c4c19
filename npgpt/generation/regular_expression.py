r"""Regular expressions: from Python's notation to a pattern that ``byte_automaton`` compiles.

What can be used, with the meaning that it has in Python's ``re``:

    a  .  [a-z_]  [^0-9]        a character, any but a newline, one of a class, one outside a class
    \d \w \s  \D \W \S          digits, word characters, white space of all scripts, and all others
    \n \t \x41 \u00e9 \. ...    escapes
    ab  a|b  (a)  (?:a)         one after the other, one of several, groups, also (?P<name>a)
    a*  a+  a?  a{2}  a{2,}  a{,3}  a{2,3}     repetitions; *? and so on are the same here, as the whole text must match

What looks around or back is refused by name: lookaheads, lookbehinds, back references, anchors, conditions, atomic
groups, possessive repetitions; and so are flags and comments.

``re`` itself says whether an expression is valid, and which characters a class has. So neither can differ from Python.
"""

import re
from functools import cache, lru_cache

import numpy as np

from npgpt.errors import ConfigError
from npgpt.generation.byte_automaton import CODE_POINTS, Either, Pattern, Repeat, Sequence, Strings, Trie

# One character of the text, as it is written: a class, an escape or the character itself.
_CHARACTER = re.compile(
    r"\[\^?\]?(?:\\.|[^\]\\])*\]"  # a ] that comes first belongs to the class
    r"|\\(?:x..|u.{4}|U.{8}|N\{[^}]*\}|0[0-7]{0,2}|[1-7][0-7]{2}|.)"
    r"|.",
    re.DOTALL,
)
_REPETITION = re.compile(r"(?:([*+?])|\{(?!\})(\d*)(,?)(\d*)\})([?+]?)", re.ASCII)  # {} is two characters
_GROUP = re.compile(r"\((?:\?:|\?P<[^>]*>|(?!\?))")
_REFUSED_GROUPS = {
    "(?=": "a lookahead",
    "(?!": "a lookahead",
    "(?<": "a lookbehind",
    "(?P=": "a back reference",
    "(?(": "a condition",
    "(?>": "an atomic group",
    "(?#": "a comment",
    "(?": "flags",
}


def parse(expression: str) -> Pattern:
    """Read a regular expression. Raises ConfigError if it is not valid, or has what can't be used here."""
    try:
        re.compile(expression)
        return _Parser(expression).parse()
    except re.error as error:
        raise ConfigError(f"{expression!r} is not a regular expression: {error}") from None
    except (OverflowError, RecursionError):
        raise ConfigError(f"{expression[:50]!r}...: too deep or too large for a regular expression") from None


class _Parser:
    """Reads a valid expression, one part after the other, from ``at`` on."""

    def __init__(self, expression):
        self.expression, self.at = expression, 0

    def parse(self):
        options = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _sequence(self):
        parts = []
        while self._next() not in ("|", ")", ""):
            parts.append(self._repeated())
        return Sequence(tuple(parts))

    def _repeated(self):
        item = self._group() if self._next() == "(" else self._character()
        found = _REPETITION.match(self.expression, self.at)
        if not found:
            return item
        sign, least, comma, most, suffix = found.groups()
        if suffix == "+":
            self._refuse("a possessive repetition")
        self.at = found.end()
        if sign:
            return Repeat(item, int(sign == "+"), 1 if sign == "?" else None)
        return Repeat(item, int(least or 0), int(most) if most else None if comma else int(least))

    def _group(self):
        opening = _GROUP.match(self.expression, self.at)
        if not opening:
            self._refuse(next(name for start, name in _REFUSED_GROUPS.items() if self._starts_with(start)))
        self.at = opening.end()
        inside = self.parse()
        self.at += 1  # the closing parenthesis
        return inside

    def _character(self):
        written = _CHARACTER.match(self.expression, self.at)[0]
        if written in ("^", "$", r"\A", r"\Z", r"\z", r"\b", r"\B"):
            self._refuse(f"the anchor {written}", "\nThe whole text must match anyway: ^ and $ can be left out.")
        if written[0] == "\\" and written[1] in "123456789" and len(written) == 2:
            self._refuse("a back reference")
        self.at += len(written)
        return Strings(_characters(written))

    def _next(self):
        return self.expression[self.at : self.at + 1]

    def _starts_with(self, start):
        return self.expression.startswith(start, self.at)

    def _refuse(self, what, advice=""):
        place = f"at position {self.at} of the regular expression {self.expression!r}"
        raise ConfigError(f"{what}, {place}, can't restrict the tokens of a text.{advice}")


@lru_cache(maxsize=1000)
def _characters(written: str) -> Trie:
    """The characters that one written character, escape or class stands for."""
    member = np.zeros(CODE_POINTS, bool)
    if len(written) == 1 and written != ".":
        member[ord(written)] = True
    else:
        for found in re.finditer(f"(?:{written})+", _all()):
            member[found.start() : found.end()] = True
    return Trie.of_characters(member)


@cache
def _all() -> str:
    """Every code point."""
    return np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
