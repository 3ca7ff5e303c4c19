"""Draw the next token from the logits."""

from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real

import numpy as np

from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Raises ConfigError, which names the field, if a value is out of range.

    temperature     logits are divided by it: below 1 sharpens the distribution; 0 is greedy, always the likeliest token
    top_k           only the k likeliest tokens (Fan et al. 2018); None or 0: all
    top_p           only the likeliest tokens that together have probability p (Holtzman et al. 2020); None: all

    >>> Sampling(temperature=1.0, top_k=2).probabilities(np.log([[0.6, 0.2, 0.1, 0.1]])).round(2)
    array([[0.75, 0.25, 0.  , 0.  ]])
    """

    temperature: float = TEMPERATURE
    top_k: int | None = TOP_K
    top_p: float | None = TOP_P

    def __post_init__(self):
        if not (_is(Real, self.temperature) and isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature must be a number of at least 0, not {self.temperature!r}")
        if self.top_k is not None and not (_is(Integral, self.top_k) and self.top_k >= 0):
            raise ConfigError(f"top_k must be a whole number of at least 0, not {self.top_k!r}")
        if self.top_p is not None and not (_is(Real, self.top_p) and 0 < self.top_p <= 1):
            raise ConfigError(f"top_p must be a number above 0 and at most 1, not {self.top_p!r}")

    def next_tokens(self, logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """logits (B, V) -> ids (B,). Raises FloatingPointError if a logit is NaN or infinite."""
        if not np.isfinite(logits).all():
            raise FloatingPointError("the model's logits are not finite: its weights are damaged or have diverged")
        if self.temperature == 0:
            return logits.argmax(axis=-1)
        cumulative = np.cumsum(self.probabilities(logits), axis=-1)
        # a random threshold below the total picks the first token whose cumulative probability exceeds it
        threshold = rng.random(len(logits)) * cumulative[:, -1]
        return (cumulative <= threshold[:, None]).sum(axis=-1)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """logits (B, V) -> (B, V) in float64: temperature (above 0) first, then top_k, then top_p of what is left."""
        x = logits.astype(np.float64)
        x = (x - x.max(axis=-1, keepdims=True)) / self.temperature
        if self.top_k and self.top_k < x.shape[-1]:
            kth = np.partition(x, -self.top_k, axis=-1)[:, -self.top_k, None]
            x = np.where(x < kth, -np.inf, x)
        p = np.exp(x)
        p /= p.sum(axis=-1, keepdims=True)
        if self.top_p is not None and self.top_p < 1:
            order = np.argsort(-p, axis=-1, kind="stable")
            likeliest_first = np.take_along_axis(p, order, axis=-1)
            before = np.cumsum(likeliest_first, axis=-1) - likeliest_first
            kept = np.zeros(p.shape, bool)
            np.put_along_axis(kept, order, before < self.top_p, axis=-1)  # the token that crosses the line is kept
            p = np.where(kept, p, 0)
            p /= p.sum(axis=-1, keepdims=True)
        return p


def _is(kind, value) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
