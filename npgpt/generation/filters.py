"""Filters: which tokens are left to draw from. Each is one rule of one paper, for ONE row of V tokens.

``top_k`` reads logits, since temperature doesn't change their order. The others read probabilities. Each returns the
positions that it keeps, ascending, and the next filter gets only those, with probabilities that add up to 1 again. So a
filter costs little once another has left few tokens, and none of them sorts all of V to find the first few.
``Sampling`` (sampling.py) applies them.
"""

import numpy as np

_FIRST_SORTED = 256  # of 50,257 tokens the likeliest 256 mostly have 0.9 of the probability; sorting them takes 10 us


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """logits (n,) -> probabilities (n,) in float64:   p_i = exp(x_i / T) / sum_j exp(x_j / T),   T > 0

    The largest logit is subtracted first, which changes nothing but avoids overflow. A logit of -inf gives 0, and a
    temperature near 0 gives 1 to the largest, or to each of several that are equally large its share.

    Source: Ackley, Hinton & Sejnowski 1985 for the temperature.

    >>> softmax(np.log([1.0, 4.0]), temperature=2.0).round(3)
    array([0.333, 0.667])
    """
    x = logits.astype(np.float64)
    x -= x.max()
    with np.errstate(over="ignore"):  # of a difference divided by 1e-300: -inf is right
        x /= temperature
    p = np.exp(x, out=x)
    p /= p.sum()
    return p


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """logits (..., V) -> log-probabilities (..., V) in float64:   x_i - log sum_j exp(x_j)"""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """The k largest logits (V,), k >= 1 -> their positions; all that are possible if k is larger than V.

    All that equal the kth are kept, so there may be more than k. A logit of -inf is never kept.

    Source: Fan, Lewis & Dauphin 2018, "Hierarchical neural story generation", where k is 10.

    >>> top_k(np.array([0.5, 3.0, 1.0, 1.0]), 2)
    array([1, 2, 3])
    """
    is_possible = logits > -np.inf
    if not is_possible.all():  # the others are left out first: NumPy's partition is slow where many are equal
        possible = np.flatnonzero(is_possible)
        return possible[top_k(logits[possible], k)]
    if k >= len(logits):
        return np.arange(len(logits))
    return np.flatnonzero(logits >= np.partition(logits, -k)[-k])


def top_p(p: np.ndarray, mass: float) -> np.ndarray:
    """The smallest set of the likeliest tokens that together have probability ``mass``; p (n,) -> their positions.

    The token that crosses the line is in the set, so it is never empty. Of tokens that are equally likely the first are
    kept; transformers leaves their order to a sort that isn't stable. A mass of 1 keeps all.

    Source: nucleus sampling, Holtzman et al. 2020, "The curious case of neural text degeneration".

    >>> top_p(np.array([0.1, 0.5, 0.3, 0.1]), 0.7)
    array([1, 2])
    """
    if mass >= 1:
        return np.arange(len(p))
    for likeliest in (_largest(p), p):  # all of p only if the few largest don't have the mass
        descending = np.sort(likeliest)[::-1]
        total = np.cumsum(descending)
        if total[-1] >= mass:
            break
    count = min(1 + int(np.searchsorted(total, mass)), len(total))
    last = descending[count - 1]
    kept = p > last
    kept[np.flatnonzero(p == last)[: count - np.count_nonzero(kept)]] = True
    return np.flatnonzero(kept)


def min_p(p: np.ndarray, fraction: float) -> np.ndarray:
    """The tokens at least ``fraction`` times as likely as the likeliest; p (n,) -> their positions.

    0 keeps all; 1 keeps the likeliest and those that equal it.

    Source: Nguyen et al. 2024, "Turning up the heat: min-p sampling".

    >>> min_p(np.array([0.1, 0.5, 0.3, 0.1]), 0.5)
    array([1, 2])
    """
    return np.flatnonzero(p >= fraction * p.max())


def typical_p(p: np.ndarray, mass: float) -> np.ndarray:
    """The tokens whose surprise is nearest to the one expected, up to probability ``mass``; p (n,) -> their positions.

    A token's surprise is -log p_i, and the one expected is the entropy H = -sum_j p_j log p_j. Tokens are taken in the
    order of |-log p_i - H| until they have the mass, and then all that are as near as the last. So a token that is much
    likelier than others may be left out. A mass of 1 keeps all.

    Source: Meister et al. 2023, "Locally typical sampling".

    >>> typical_p(np.array([0.6, 0.3, 0.1]), 0.3)  # H is 0.90; the surprises are 0.51, 1.20, 2.30
    array([1])
    """
    if mass >= 1:
        return np.arange(len(p))
    surprise = -np.log(np.maximum(p, np.finfo(p.dtype).tiny))  # what has probability 0 is far from every entropy
    distance = np.abs(surprise - (p * surprise).sum())
    few = np.flatnonzero(distance <= -_largest(-distance).min())  # the 256 nearest, and their equals
    for nearest in (few, np.arange(len(p))):  # all only if these don't have the mass
        nearest = nearest[np.argsort(distance[nearest])]  # equals are kept or left out together, so any order will do
        total = np.cumsum(p[nearest])
        if total[-1] >= mass:
            break
    last = nearest[min(int(np.searchsorted(total, mass)), len(total) - 1)]
    return np.flatnonzero(distance <= distance[last])


def _largest(x):
    """The 256 largest of x (n,), in any order; all if there are no more. Sorting them alone is quick."""
    return x if len(x) <= _FIRST_SORTED else np.partition(x, -_FIRST_SORTED)[-_FIRST_SORTED:]
