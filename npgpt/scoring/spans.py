"""Pieces of tokens, each with the tokens at its end that a model is to predict; windows over a text; batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npgpt.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Spans:
    """W pieces of one array. Piece i is tokens[begin[i]:end[i]], and its last scored[i] tokens are to be predicted.

    ==========  =================================================================================================
    tokens      (N,) ids, maybe memory-mapped
    begin, end  (W,) int64. A begin of -1 is the place before all tokens, where ``prefix`` stands
    scored      (W,) int64, at least 1 and less than a piece's length: the first token of a piece has no context
    prefix      an id, or None if no piece begins at -1
    ==========  =================================================================================================
    """

    tokens: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    scored: np.ndarray
    prefix: int | None = None

    @classmethod
    def join(cls, pieces: Sequence[tuple[np.ndarray, int]]) -> "Spans":
        """Of (ids, how many of them at the end are to be predicted), one piece each.

        >>> spans = Spans.join([(np.array([5, 6, 7]), 1), (np.array([8, 9]), 1)])
        >>> spans.piece(1).tolist(), spans.count
        ([8, 9], 2)
        """
        ends = np.cumsum([len(ids) for ids, _ in pieces], dtype=np.int64)
        scored = np.array([scored for _, scored in pieces], np.int64)
        tokens = np.concatenate([ids for ids, _ in pieces]) if pieces else np.zeros(0, np.int64)
        return cls(tokens, np.concatenate([[0], ends[:-1]]) if pieces else ends, ends, scored)

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def count(self) -> int:
        """How many tokens are to be predicted."""
        return int(self.scored.sum())

    def first(self, n: int | None) -> "Spans":
        """The first n pieces; all for None."""
        return replace(self, begin=self.begin[:n], end=self.end[:n], scored=self.scored[:n])

    def piece(self, i: int) -> np.ndarray:
        """The ids of piece i, int64."""
        begin, end = int(self.begin[i]), int(self.end[i])
        ids = self.tokens[max(begin, 0) : end].astype(np.int64)
        return ids if begin >= 0 else np.concatenate([[self.prefix], ids])

    def batches(self, batch_size: int) -> Iterator["Batch"]:
        """Yield all pieces, ``batch_size`` at a time, the longest first: then little of a batch is padding, and a batch
        that doesn't fit in memory is the first one.
        """
        order = self._order()
        for i in range(0, len(order), batch_size):
            chosen = order[i : i + batch_size]
            yield Batch.of(chosen, [self.piece(k) for k in chosen], self.scored[chosen])

    def shapes(self, batch_size: int) -> set[tuple[int, int]]:
        """(B * T, N) of every batch: the rows of its ids, and how many tokens are to be predicted."""
        order = self._order()
        if not len(order):
            return set()
        firsts = np.arange(0, len(order), batch_size)
        sizes = np.minimum(batch_size, len(order) - firsts)
        rows = sizes * (self.end - self.begin - 1)[order[firsts]]
        return set(zip(rows.tolist(), np.add.reduceat(self.scored[order], firsts).tolist(), strict=True))

    def _order(self):
        return np.argsort(self.begin - self.end, kind="stable")


@dataclass(frozen=True, eq=False)
class Batch:
    """B pieces as a model takes them. Shorter ones are padded at their end, where causal attention never looks.

    =========  =====================================================================================================
    spans      (B,) the pieces' numbers
    ids        (B, T) of all their tokens but the last, which is a target only
    positions  (N,) the rows of ids, read as (B * T,), that predict the targets
    targets    (N,) ids
    bounds     (B - 1,) where the targets of one piece end and those of the next begin
    =========  =====================================================================================================
    """

    spans: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, spans: np.ndarray, pieces: Sequence[np.ndarray], scored: np.ndarray) -> "Batch":
        """Pad the pieces (n,) and find their targets.

        >>> batch = Batch.of(np.arange(2), [np.array([5, 6, 7]), np.array([8, 9])], np.array([1, 1]))
        >>> batch.ids.tolist(), batch.positions.tolist(), batch.targets.tolist()
        ([[5, 6], [8, 0]], [1, 2], [7, 9])
        """
        T = max(map(len, pieces)) - 1
        ids = np.zeros((len(pieces), T), np.int64)
        positions, targets = [], []
        for row, (piece, n) in enumerate(zip(pieces, scored.tolist(), strict=True)):
            ids[row, : len(piece) - 1] = piece[:-1]
            end = row * T + len(piece) - 1
            positions.append(np.arange(end - n, end))
            targets.append(piece[-n:])
        return cls(spans, ids, np.concatenate(positions), np.concatenate(targets), np.cumsum(scored)[:-1])


def sliding_windows(
    tokens: np.ndarray, documents: np.ndarray, context: int, stride: int, end_of_text: int | None, prefix: bool = True
) -> Spans:
    """Windows over a text in which each token is predicted once: from what its window has before it.

    A window gives the model ``context`` tokens and moves by ``stride``. It covers one token more, the last target:

        tokens     a b c d e f g h        context 4, stride 2
        window 0   a b c d e              predicts b c d e
        window 1       c d e f g                       f g, f from c d e
        window 2           e f g h                         h

    So each token but the first few has at least context - stride + 1 tokens before it. A small stride costs more time
    and gives a lower, truer loss; stride = context is the quickest.

    documents       (D,) where each document begins, the first at 0. No window crosses into another document
    end_of_text     the id of <|endoftext|>, which stands between documents and is never predicted; None: there is none
    prefix          <|endoftext|> precedes each document, so its first token has a context, too, and is predicted: as in
                    lm-evaluation-harness (``loglikelihood_rolling``). Otherwise, and without an ``end_of_text``, the
                    first token of a document is not predicted

    Source: "Perplexity of fixed-length models" in Hugging Face's documentation of transformers. Its windows count the
    last target, and it has no prefix: its max_length L and stride S are context L - 1, stride S and no prefix here.
    With S = L it leaves out the first token of each window.

    Raises ConfigError unless 1 <= stride <= context, or tokens would be left out.

    >>> windows = sliding_windows(np.arange(8), np.array([0]), context=4, stride=2, end_of_text=None)
    >>> [(windows.piece(i).tolist(), n) for i, n in enumerate(windows.scored.tolist())]
    [([0, 1, 2, 3, 4], 4), ([2, 3, 4, 5, 6], 2), ([4, 5, 6, 7], 1)]
    """
    if not 1 <= stride <= context:
        raise ConfigError(f"the stride must be at least 1 and at most the context, {context:,}, not {stride:,}")
    prefixed = prefix and end_of_text is not None
    starts = documents.astype(np.int64)
    ends = np.concatenate([starts[1:] - 1, [len(tokens)]]) if end_of_text is not None else np.array([len(tokens)])
    if end_of_text is not None and len(tokens) and tokens[-1] == end_of_text:
        ends[-1] -= 1
    starts = starts - prefixed
    lengths = ends - starts
    counts = np.where(lengths < 2, 0, 1 + np.maximum(0, -((context + 1 - lengths) // stride)))  # windows a document
    document = np.repeat(np.arange(len(starts)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a window in its document
    begin = starts[document] + place * stride
    end = np.minimum(begin + context + 1, ends[document])
    scored = np.where(place == 0, end - begin - 1, end - np.concatenate([[0], end[:-1]])[: len(end)])
    return Spans(tokens, begin, end, scored, end_of_text if prefixed else None)
