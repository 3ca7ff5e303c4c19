"""GPT-2's byte-pair encoding, computed by tiktoken, and cuts of a text that leave its tokens unchanged.

The ranks are in ``gpt2.tiktoken``, so no network is needed. The file is byte for byte the table that tiktoken
downloads as r50k_base (sha256 306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930), taken from the source
distribution of openai-whisper (MIT licence).
"""

import re
from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

# The encoding first splits a text into pieces by this expression, then merges bytes within each piece.
# It is tiktoken's, which finds the same pieces as the published one (openai/gpt-2, src/encoder.py) in less time.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# \s in that expression: Unicode's White_Space. (Python's own \s has U+001C to U+001F as well.)
WHITESPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_LONG_RUN = 500_000
_LONG_RUN_OF_WHITESPACE = re.compile(f"(?<!{WHITESPACE}){WHITESPACE}{{{_LONG_RUN},}}+")

_CUT_BEFORE_SPACE = " \t\r\n"
_CUT_BEFORE_PUNCTUATION = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~、。，！？：；'


@cache
def tokens() -> list[bytes]:
    """The bytes of the ids 0 to 50255. A line of the table is base64, a space and the id; the ids are in order."""
    table = files("npgpt.text").joinpath("gpt2.tiktoken").read_bytes()
    return [a2b_base64(token) for token in table.split()[::2]]


@cache
def gpt2_encoding() -> "tiktoken.Encoding":
    """Of GPT-2, made once."""
    return make_encoding("gpt2", {token: rank for rank, token in enumerate(tokens())})


def make_encoding(name: str, ids: Mapping[bytes, int]) -> "tiktoken.Encoding":
    """tiktoken's encoder with GPT-2's pattern and these tokens, of which those of lower ids are merged first."""
    import tiktoken  # here: decoding and other tokenizers don't need it

    return tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=dict(ids), special_tokens={})


def encode(text: str, encoding: "tiktoken.Encoding | None" = None) -> list[int]:
    """Encode a text without lone surrogates. ``<|endoftext|>`` in it is text like any other.

    encoding    made by ``make_encoding``; None: GPT-2's
    """
    encode_ordinary = (encoding or gpt2_encoding()).encode_ordinary
    return [id for part in _split_long_runs(text) for id in encode_ordinary(part)]


def safe_chunks(chunks: Iterable[str]) -> Iterator[str]:
    """Cut a text into chunks that can be encoded one by one: together they give the tokens of the whole.

    Between two characters a and b the text can be cut

        if b is whitespace and a is not, or
        if b is punctuation and a is a letter,

    as the alternatives of PATTERN show. No piece crosses such a cut: within a piece, whitespace only follows
    whitespace, and punctuation never follows a letter. No piece to the left depends on the text after the cut: only the
    alternatives for whitespace look ahead, and the left part never ends in whitespace. None looks back. Text without
    any such cut is held in memory as a whole.

    >>> list(safe_chunks(["The ver", "dict is", " in"]))
    ['The', ' verdict', ' is in']
    """
    held = []
    for chunk in chunks:
        cut = _last_cut(chunk)
        if cut:
            yield "".join(held) + chunk[:cut]
            held = []
        held.append(chunk[cut:])
    yield "".join(held)


def _last_cut(text: str) -> int:
    """The last position inside a text at which it can be cut; 0 if there is none."""
    for i in range(len(text) - 1, 0, -1):
        a, b = text[i - 1], text[i]
        # Python's and tiktoken's Unicode versions may differ, but agree here: b is one of a few old characters, all of
        # tiktoken's whitespace is whitespace to Python, and letters stay letters.
        if (b in _CUT_BEFORE_SPACE and not a.isspace()) or (b in _CUT_BEFORE_PUNCTUATION and a.isalpha()):
            return i
    return 0


def _split_long_runs(text: str) -> Iterator[str]:
    r"""Cut a text where tiktoken would fail on it; encoded one by one, the parts give the tokens of the whole.

    Its regular expressions can backtrack a million times, then panic (github.com/openai/tiktoken/issues/15). Only
    ``\s+(?!\S)`` still backtracks once a character: it takes a run of whitespace except the last character, which goes
    with the next piece. Cut there, the run ends its part, and ``\s++$`` takes the same characters without backtracking.
    """
    start = 0
    if len(text) >= _LONG_RUN:
        for run in _LONG_RUN_OF_WHITESPACE.finditer(text):
            if run.end() < len(text):
                yield text[start : run.end() - 1]
                start = run.end() - 1
    yield text[start:]
