"""A text while it is written, as HTML that can't hold anyone's markup."""

import math
from html import escape

from npgpt.generation.token import Token
from npgpt.text.tokenizer import Tokenizer

PROMPT_SHOWN = 200  # characters: the whole prompt stands above, and each update sends this again
# The bands of probability, and how strong the colour is: the less likely, the stronger. Text on it can be read in a
# light and in a dark notebook, since the colour is see-through.
BANDS = ((0.5, 0.0), (0.2, 0.12), (0.05, 0.26), (0.01, 0.42), (0.0, 0.6))
STYLE = "\n".join(
    [
        ".npgpt-text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; min-height: 1.6em; }",
        ".npgpt-prompt, .npgpt-note { opacity: 0.65; }",
        ".npgpt-error { border-left: 0.25em solid #d33; padding-left: 0.6em; white-space: pre-wrap; }",
        ".npgpt-text span, .npgpt-key span { border-radius: 0.2em; }",
        ".npgpt-key span { padding: 0 0.4em; margin-right: 0.3em; white-space: nowrap; }",
        *(f"span.npgpt-{band} {{ background: rgb(235 115 0 / {alpha}); }}" for band, (_, alpha) in enumerate(BANDS)),
    ]
)


class WrittenText:
    """The new text behind a prompt, piece by piece, each with its probability.

    A piece is what one token adds. A character may take several tokens; then they are one piece, whose probability is
    the product of theirs.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> text = WrittenText("1 ", ByteTokenizer())
    >>> for id in b"<2":
    ...     text.add(Token(0, id, math.log(0.125)))
    >>> text.plain
    '<2'
    >>> text.html()
    '<div class="npgpt-text"><span class="npgpt-prompt">1 </span>&lt;2</div>'
    """

    def __init__(self, prompt: str, tokenizer: Tokenizer):
        self.prompt, self.tokenizer = prompt, tokenizer
        self.plain = ""
        self._decoder = tokenizer.decoder()
        self._pieces: list[str] = []  # spans
        self._logprob = 0.0  # of the tokens since the last piece

    def add(self, token: Token) -> None:
        """Take the next token, which has its ``logprob``. <|endoftext|> is no text."""
        if token.id == self.tokenizer.end_of_text:
            return
        assert token.logprob is not None
        self._logprob += token.logprob
        piece = self._decoder.decode(token.id)
        if piece:
            p = math.exp(self._logprob)
            self.plain += piece
            self._pieces.append(f'<span class="npgpt-{_band(p)}" title="{percent(p)}">{escape(piece)}</span>')
            self._logprob = 0.0

    def html(self, coloured: bool = False) -> str:
        """The end of the prompt and the new text; ``coloured``: by probability, which a tooltip tells."""
        new = "".join(self._pieces) if coloured else escape(self.plain)
        cut = "…" if len(self.prompt) > PROMPT_SHOWN else ""
        prompt = escape(cut + self.prompt[-PROMPT_SHOWN:])
        return f'<div class="npgpt-text"><span class="npgpt-prompt">{prompt}</span>{new}</div>'


def percent(p: float) -> str:
    """A probability for people.

    >>> percent(1.0), percent(0.0416), percent(0.0000123)
    ('100%', '4.2%', '0.0012%')
    """
    return f"{100 * p:.2g}%" if p < 0.0995 else f"{100 * p:.0f}%"


def colour_key() -> str:
    """The bands of colour, the unlikely ones first, as HTML."""
    spans = []
    for band, (low, _) in reversed(list(enumerate(BANDS))):
        text = f"from {low:.0%}" if low else f"below {BANDS[-2][0]:.0%}"
        spans.append(f'<span class="npgpt-{band}">{text}</span>')
    return f'<div class="npgpt-key">{"".join(spans)}</div>'


def note(text: str) -> str:
    """A remark, as HTML."""
    return f'<div class="npgpt-note">{escape(text)}</div>'


def error(text: str) -> str:
    """What went wrong, as HTML."""
    return f'<div class="npgpt-error" role="alert">{escape(text)}</div>'


def _band(p):
    return next(band for band, (low, _) in enumerate(BANDS) if p >= low)
