"""Byte-pair encoding trained on a text: its most frequent pairs of neighbours become tokens, one after the other.

    pieces      GPT-2's pattern cuts the text; no token goes across a cut, so only how often each piece occurs counts
    symbols     at first each piece is its bytes
    merge       the pair (a, b) that is most often side by side becomes a new token, everywhere and from left to right:
                a a a -> aa a. Of pairs that are equally often, the one with the smaller a is first, then that with the
                smaller b. Then the next pair, until there are enough tokens, or no pair is there twice

Ids are in the order of making, after the 256 bytes. So it is in Hugging Face's tokenizers (the trainer's comparison of
``Merge``), whose merges these are with ``min_frequency=2``.

tiktoken knows tokens and ranks, and no pairs, and still encodes as the merges do, since a token is made by one pair
alone. Take a piece in which a token's bytes lie between two borders of symbols. Tokens never break up, so these borders
have been there from the start, and what is between them was merged as in any other such place: when the token was made,
all of them became it.

Source: Sennrich, Haddow & Birch 2016, algorithm 1.
"""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

import numpy as np

from npgpt.text import gpt2_bpe
from npgpt.text.byte_level import BYTES
from npgpt.text.tokenizer import utf8

MIN_COUNT = 2  # a pair that is there once saves nothing elsewhere
MAX_TOKEN_BYTES = 1024  # a text of nothing but dashes would make longer and longer tokens
MAX_PIECES = 4_000_000  # different ones that are counted: some 400 MB

_SHIFT = 2**20  # a pair as one number: a * _SHIFT + b; there are fewer tokens than that (BPE_SIZES)


def count_pieces(documents: Iterable[Iterable[str]]) -> dict[str, int]:
    """How often each piece is in some documents, each of which comes in chunks. Raises TokenizerError on surrogates.

    Beyond MAX_PIECES different pieces the rarest ones so far are forgotten, so that memory is bounded.

    >>> count_pieces([["a verdict, a ver", "dict"], ["a"]])
    {'a': 2, ' verdict': 2, ',': 1, ' a': 1}
    """
    counts: Counter[str] = Counter()
    for chunks in documents:
        for part in gpt2_bpe.safe_chunks(chunks):
            utf8(part)
            counts.update(_pattern(_numbers_in(part)).findall(part))
            if len(counts) > MAX_PIECES:
                counts = _without_rarest(counts)
    return dict(counts)


def train_merges(pieces: Mapping[str, int], limit: int) -> list[tuple[int, int]]:
    """At most ``limit`` merges, in order, from how often each piece occurs -> [(a, b), ...], of which 256 + i is made.

    >>> [(BYTES[a], BYTES[b]) for a, b in train_merges({"banana": 2, "ban": 1}, limit=1)]
    [(b'a', b'n')]
    """
    symbols = _Symbols(pieces)
    count = symbols.count_pairs()  # an upper bound for pairs whose count has fallen since they went to the heap
    heap = [(-n, pair) for pair, n in count.items()]
    heapq.heapify(heap)
    sizes = [1] * len(BYTES)
    merges: list[tuple[int, int]] = []
    while heap and len(merges) < limit:
        negative, pair = heapq.heappop(heap)
        if count[pair] != -negative:  # counts of old pairs only fall: back into the heap, with today's
            if count[pair] >= MIN_COUNT:
                heapq.heappush(heap, (-count[pair], pair))
            continue
        a, b = divmod(pair, _SHIFT)
        if sizes[a] + sizes[b] > MAX_TOKEN_BYTES:
            continue
        new = len(sizes)
        merges.append((a, b))
        sizes.append(sizes[a] + sizes[b])
        before, after = symbols.merge(a, b, new)
        for x, n in before.items():  # x a b -> x new
            _subtract(count, x * _SHIFT + a, n)
            if n >= MIN_COUNT:
                count[x * _SHIFT + new] = n
                heapq.heappush(heap, (-n, x * _SHIFT + new))
        for y, n in after.items():  # a b y -> new y; where y is new itself, it was a b as well
            _subtract(count, b * _SHIFT + (a if y == new else y), n)
            if n >= MIN_COUNT:
                count[new * _SHIFT + y] = n
                heapq.heappush(heap, (-n, new * _SHIFT + y))
    return merges


class _Symbols:
    """All pieces in arrays, one after the other, so that one merge is a few operations of NumPy on all its places.

    symbols         (N,) the token at each place. -1: a gap between pieces, or merged into the symbol before
    weights         (N,) how often its piece is in the text
    before, after   (N,) the places of the neighbours: symbols of the piece, or the gaps around it
    places          {token: where it may be, in order}. What is no longer there is dropped when the token is looked up
    """

    def __init__(self, pieces):
        words = [piece.encode() for piece in pieces]
        lengths = np.array([len(word) for word in words], np.int64)
        ids = np.zeros(256, np.int32)
        ids[np.frombuffer(b"".join(BYTES), np.uint8)] = np.arange(256)
        full = 1 + np.arange(lengths.sum()) + np.repeat(np.arange(len(words)), lengths)  # a gap before each piece
        self.symbols = np.full(len(full) + len(words) + 1, -1, np.int32)
        self.symbols[full] = ids[np.frombuffer(b"".join(words), np.uint8)]
        self.weights = np.zeros(len(self.symbols), np.int64)
        self.weights[full] = np.repeat(np.fromiter(pieces.values(), np.int64, len(words)), lengths)
        self.after = np.arange(1, len(self.symbols) + 1)
        self.before = self.after - 2
        order = full[np.argsort(self.symbols[full], kind="stable")]
        bounds = np.searchsorted(self.symbols[order], np.arange(len(BYTES) + 1))
        self.places = {id: order[bounds[id] : bounds[id + 1]] for id in range(len(BYTES))}

    def count_pairs(self) -> dict[int, int]:
        """{a * _SHIFT + b: how often the bytes a and b are neighbours}, of those that are often enough."""
        a, b = self.symbols[:-1], self.symbols[1:]
        pairs = (a >= 0) & (b >= 0)
        counts = np.bincount(a[pairs] * 256 + b[pairs], self.weights[:-1][pairs])  # float64: exact to 2^53
        often = np.flatnonzero(counts >= MIN_COUNT)
        return {(i // 256) * _SHIFT + i % 256: int(n) for i, n in zip(often.tolist(), counts[often], strict=True)}

    def merge(self, a: int, b: int, new: int) -> tuple[dict[int, int], dict[int, int]]:
        """Make a b to ``new`` everywhere -> {the symbol before: how often}, {the symbol after: how often}.

        Two new ones side by side count after the first, and not before the second.
        """
        first = self._find(a, b)
        second = self.after[first]
        rest = self.after[second]
        self.symbols[first], self.symbols[second] = new, -1
        self.after[first], self.before[rest] = rest, first
        self.places[new] = first
        weights = self.weights[first].tolist()
        before = _tally(self.symbols[self.before[first]].tolist(), weights)
        after = _tally(self.symbols[rest].tolist(), weights)
        before.pop(new, None)
        return before, after

    def _find(self, a, b):
        """The places of a that has b after it, in order, none of which shares a symbol with another."""
        if len(self.places[a]) <= len(self.places[b]):
            first = self._look_up(a)
            first = first[self.symbols[self.after[first]] == b]
        else:
            first = self.before[self._look_up(b)]
            first = first[self.symbols[first] == a]
        if a == b and len(first):  # a a a: of places in a row every other one
            index = np.arange(len(first))
            in_a_row = np.append(False, self.after[first[:-1]] == first[1:])
            first = first[(index - np.maximum.accumulate(np.where(in_a_row, 0, index))) % 2 == 0]
        return first

    def _look_up(self, token):
        places = self.places[token]
        self.places[token] = places = places[self.symbols[places] == token]
        return places


def _tally(symbols, weights):
    found = {}
    for symbol, weight in zip(symbols, weights, strict=True):
        found[symbol] = found.get(symbol, 0) + weight
    found.pop(-1, None)
    return found


def _subtract(count, pair, n):
    if pair in count:  # else it was never often enough
        count[pair] -= n


def _without_rarest(counts):
    least = MIN_COUNT
    while len(counts) > MAX_PIECES // 2:
        counts = Counter({piece: n for piece, n in counts.items() if n >= least})
        least += 1
    return counts


@lru_cache(maxsize=64)
def _pattern(numbers):
    r"""GPT-2's pattern in the terms of Python's re, for text in which these are the \p{N} that are not \d.

    [^\W\d_] is \p{L} and them: Python counts what has a numeric value among \w. Whitespace is spelled out, as Python's
    \s has more. Words of ASCII, which are most, are looked for first: sets of few ranges take less time. (Unicode's
    version is Python's here. A character that tiktoken doesn't know yet can make a token that is never used.)
    """
    space = gpt2_bpe.WHITESPACE[1:-1]
    return re.compile(
        rf"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]++(?![^\0-\x7f])| ?[^\W\d_{numbers}]++| ?[\d{numbers}]++"
        rf"| ?(?:[^\w{space}]|_)++|[{space}]+(?![^{space}])|[{space}]"
    )


def _numbers_in(text):
    return "" if text.isascii() else "".join(sorted(_numbers() & set(text)))


@cache
def _numbers():
    characters = map(chr, range(0x110000))
    return frozenset(c for c in characters if c.isnumeric() and not c.isalpha() and not c.isdecimal())
