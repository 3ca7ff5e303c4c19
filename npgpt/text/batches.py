"""Tokens to batches: windows over a text, shuffled anew in each epoch."""

import numpy as np

from npgpt.errors import ConfigError, DataError


class Windows:
    """All whole windows over a text of tokens. Window i starts at token i * stride and has T = context inputs.

    Its targets are the same tokens one place further on, so a window covers context + 1 tokens:

        tokens     a b c d e f g h        context 3, stride 2
        window 0   a b c     -> b c d
        window 1       c d e     -> d e f
        window 2           e f g     -> f g h

    With stride = context each token is a target once, except the first and what is left over at the end. A smaller
    stride makes more windows, which overlap.
    """

    def __init__(self, tokens: np.ndarray, context: int, stride: int | None = None, part: str = "text"):
        """tokens (N,), which may be memory-mapped; stride None means context; part is what errors call the tokens.

        Raises ConfigError if context or stride is below 1, DataError if there is not one window.
        """
        stride = context if stride is None else stride
        for name, value in (("context", context), ("stride", stride)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if len(tokens) < context + 1:
            raise DataError(
                f"the {part} has {len(tokens):,} tokens, but a context of {context:,} needs at least {context + 1:,}.\n"
                "Give more text, a smaller --context, or another --val-fraction."
            )
        self.tokens = tokens
        self.context = context
        self.stride = stride

    def __len__(self) -> int:
        return (len(self.tokens) - self.context - 1) // self.stride + 1

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Window numbers (B,) -> ids (B, T), targets (B, T), int64. Raises IndexError on a window that there isn't."""
        indices = np.asarray(indices)
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"there are the windows 0 to {len(self) - 1}, not all of {indices}")
        places = indices[:, None] * self.stride + np.arange(self.context + 1)
        tokens = self.tokens[places].astype(np.int64)  # (B, T + 1)
        return tokens[:, :-1].copy(), tokens[:, 1:].copy()


class Batches:
    """An endless sequence of batches: all windows in a shuffled order, then all in another order, and so on.

    Think of the orders as one long list: batch k is its places k * B to k * B + B - 1. So each epoch has every window
    exactly once, and a batch at the end of an epoch is filled up from the next.

    The order of epoch e depends on nothing but the seed and e, so batch k doesn't depend on what was asked for before.
    That is all there is to resuming a run in the middle of an epoch: know k, and go on.

    The orders of the epochs that the last batch reaches into are kept, mostly one: 8 bytes for each window.
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int = 0):
        """Raises ConfigError if the batch size is below 1 or the seed is negative."""
        if batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, not {batch_size}")
        if seed < 0:
            raise ConfigError(f"the seed must be at least 0, not {seed}")
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        self._orders = {}

    def batch(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch k = 0, 1, 2, ... -> ids (B, T), targets (B, T), int64."""
        places = k * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(places, len(self.windows))
        self._orders = {epoch: self._order(epoch) for epoch in range(epochs[0], epochs[-1] + 1)}
        return self.windows.batch(np.array([self._orders[e][i] for e, i in zip(epochs, places, strict=True)]))

    def _order(self, epoch):
        """(len(windows),) int64"""
        if epoch in self._orders:
            return self._orders[epoch]
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))


def evaluation_batches(windows: Windows, batch_size: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """At most ``count`` batches of windows spread evenly over a text, always the same. The last one may be smaller.

    If there are no more than count * batch_size windows, each is in them once.
    """
    total = min(len(windows), count * batch_size)
    indices = np.arange(total) * len(windows) // total
    return [windows.batch(indices[i : i + batch_size]) for i in range(0, total, batch_size)]
