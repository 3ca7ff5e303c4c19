"""Tokens to batches: windows over a text, shuffled anew in each epoch."""

import numpy as np
from numpy.typing import ArrayLike

from npgpt.errors import ConfigError, DataError

IGNORED = -100  # as a target: the loss leaves it out


class TokenDataset:
    """All whole windows over a sequence of tokens. Window i starts at token i * stride and has T = context inputs.

    Its targets are the same tokens shifted by one, so a window covers context + 1 tokens:

        tokens     a b c d e f g h        context 3, stride 2
        window 0   a b c     -> b c d
        window 1       c d e     -> d e f
        window 2           e f g     -> f g h

    With stride = context each token is a target once, except the first and the rest at the end.

    Conversations are packed: documents follow each other with <|endoftext|> between them, and windows go over the
    borders. A window for each, filled up with padding, would be mostly padding where they are short, and cut off what
    is longer than the context. Packed, every token is learned, in full batches, by the same code as any text. The price
    is that the end of another conversation stands before some, which <|endoftext|> teaches a model to ignore.

    With ``answers`` only these tokens are learned: other targets are -100, which the loss leaves out. Windows without
    any are left out.

    >>> dataset = TokenDataset(np.arange(8), context=3, stride=2)
    >>> ids, targets = dataset.batch([0, 2])
    >>> ids.tolist(), targets.tolist()
    ([[0, 1, 2], [4, 5, 6]], [[1, 2, 3], [5, 6, 7]])
    """

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        stride: int | None = None,
        part: str = "text",
        answers: np.ndarray | None = None,
    ):
        """tokens (N,), which may be memory-mapped; stride None means context; part names the tokens in errors.

        answers     (N,) bool, the tokens that are learned; None: all

        Raises ConfigError if context or stride is below 1, DataError if there is not one window.
        """
        stride = context if stride is None else stride
        for name, value in (("context", context), ("stride", stride)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if answers is not None and len(answers) != len(tokens):
            raise ValueError(f"{len(answers):,} answers for {len(tokens):,} tokens")
        if len(tokens) < context + 1:
            problem = f"{len(tokens):,} tokens, but a context of {context:,} needs at least {context + 1:,}"
            advice = "Give more text, a smaller --context, or another --val-fraction."
            raise DataError(f"the {part} has {problem}.\n{advice}")
        self.tokens = tokens
        self.context = context
        self.stride = stride
        self.answers = answers
        self._starts: range | np.ndarray = range(0, len(tokens) - context, stride)
        if answers is not None:
            learned = (start for start in self._starts if answers[start + 1 : start + context + 1].any())
            self._starts = np.fromiter(learned, np.int64)
            if not len(self._starts):
                raise DataError(f"the {part} has no token of an assistant to learn: give more text, or --loss-on all")

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Gather windows (B,) -> ids (B, T), targets (B, T), int64. Raises IndexError on an index out of range."""
        indices = np.asarray(indices)
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"window indices must be 0 to {len(self) - 1}, not {indices}")
        starts = np.array([self._starts[i] for i in indices.tolist()], np.int64)
        positions = starts[:, None] + np.arange(self.context + 1)
        tokens = self.tokens[positions].astype(np.int64)  # (B, T + 1)
        ids, targets = tokens[:, :-1].copy(), tokens[:, 1:].copy()
        if self.answers is not None:
            targets[~self.answers[positions[:, 1:]]] = IGNORED
        return ids, targets


class BatchSampler:
    """An endless sequence of batches: all windows in a shuffled order, then all in another order, and so on.

    Batch k has the positions k * B to k * B + B - 1 of these orders, joined. Each epoch has every window exactly once,
    and a batch at the end of an epoch is filled up from the next.

    The order of epoch e depends only on the seed and e, so k is all that a run needs to resume in the middle of an
    epoch. The orders of the last batch's epochs are kept, usually one: 8 bytes a window.

    >>> batches = BatchSampler(TokenDataset(np.arange(6), context=1), batch_size=2, seed=1)
    >>> sorted(np.concatenate([batches.batch(k)[0] for k in range(5)]).ravel().tolist())
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(self, dataset: TokenDataset, batch_size: int, seed: int = 0):
        """Raises ConfigError if the batch size is below 1 or the seed is negative."""
        if batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, not {batch_size}")
        if seed < 0:
            raise ConfigError(f"the seed must be at least 0, not {seed}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch k = 0, 1, 2, ... -> ids (B, T), targets (B, T), int64."""
        epochs, positions = np.divmod(k * self.batch_size + np.arange(self.batch_size), len(self.dataset))
        self._orders = {epoch: self._order(epoch) for epoch in range(epochs[0], epochs[-1] + 1)}
        return self.dataset.batch([self._orders[e][i] for e, i in zip(epochs, positions, strict=True)])

    def _order(self, epoch):
        if epoch in self._orders:
            return self._orders[epoch]
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))


def evaluation_batches(dataset: TokenDataset, batch_size: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """At most ``count`` batches of windows spread evenly over a text, always the same. The last one may be smaller.

    No window comes twice. All come if there are no more than count * batch_size.

    >>> [ids.ravel().tolist() for ids, targets in evaluation_batches(TokenDataset(np.arange(9), 1), 2, 2)]
    [[0, 2], [4, 6]]
    """
    total = min(len(dataset), count * batch_size)
    indices = np.arange(total) * len(dataset) // total
    return [dataset.batch(indices[i : i + batch_size]) for i in range(0, total, batch_size)]
