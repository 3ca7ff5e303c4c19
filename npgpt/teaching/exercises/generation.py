"""One token after another: which are left to draw from (top-p), and what is kept of the earlier ones (the cache)."""

import math
from functools import partial

import numpy as np

from npgpt import kernels
from npgpt.config import GPTConfig
from npgpt.generation import filters
from npgpt.generation.cache import KeyValueCache
from npgpt.teaching.exercises.attention import attention, heads, later, queries_keys_values, without_maximum
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values

# Top-p


def _top_p(p, mass, count=lambda total, mass: 1 + np.searchsorted(total, mass), ascending=True):
    order = np.argsort(-p, kind="stable")
    kept = order[: count(np.cumsum(p[order]), mass)]
    return np.sort(kept) if ascending else kept


TOP_P = Exercise(
    name="top_p",
    title="Top-p sampling: which tokens are left?",
    task="""
Keep the smallest set of the likeliest tokens that together have at least the
probability ``mass``. The token that crosses the line is in the set. Of tokens
that are equally likely, the first ones are taken first.

Return their positions, ascending.
""",
    read="docs/course/09-sampling.md, npgpt/generation/filters.py (after you tried)",
    signature="top_p(p, mass)",
    gives="p (n,), probabilities; mass, a number above 0 and up to 1 -> positions, whole numbers",
    outputs=("positions",),
    reference=filters.top_p,
    cases=(
        Case("mass 0.5 of 0.4, 0.35, 0.25", {"p": np.array([0.4, 0.35, 0.25]), "mass": 0.5}),
        Case("mass 0.7 of 0.125, 0.5, 0.25, 0.125", {"p": np.array([0.125, 0.5, 0.25, 0.125]), "mass": 0.7}),
        Case("mass 0.75, which two have exactly", {"p": np.array([0.125, 0.5, 0.25, 0.125]), "mass": 0.75}),
        Case("mass 0.1: the likeliest alone", {"p": np.array([0.25, 0.5, 0.25]), "mass": 0.1}),
        Case("mass 1: all", {"p": np.array([0.25, 0.5, 0.25]), "mass": 1.0}),
        Case("four that are equal", {"p": np.full(4, 0.25), "mass": 0.4}),
    ),
    mistakes=(
        Mistake(
            partial(_top_p, count=lambda total, mass: max(1, np.searchsorted(total, mass))),
            "With top_p = 0.5 and tokens of probability 0.4, 0.3, 0.3, which are kept? The token that crosses the line "
            "is missing.",
        ),
        Mistake(
            partial(_top_p, count=lambda total, mass: np.searchsorted(total, mass)),
            "With top_p = 0.5 and tokens of probability 0.4, 0.3, 0.3, which are kept? The token that crosses the line "
            "is missing.",
        ),
        Mistake(
            partial(_top_p, ascending=False),
            "The right tokens, in the order of their probability. Return the positions ascending.",
        ),
        Mistake(
            lambda p, mass: np.sort(np.argsort(p)[::-1][: 1 + np.searchsorted(np.cumsum(np.sort(p)[::-1]), mass)]),
            "Of equally likely tokens you take the last first: sort -p, with kind='stable'.",
        ),
        Mistake(
            partial(_top_p, count=lambda total, mass: 1 + np.searchsorted(total, mass, side="right")),
            "One too many: a set that has the mass exactly has enough.",
        ),
        Mistake(
            lambda p, mass: np.flatnonzero(p >= np.sort(p)[::-1][np.searchsorted(np.cumsum(np.sort(p)[::-1]), mass)]),
            "Several tokens are as likely as the last one that is needed. Keep the first of them, and no more than are "
            "needed.",
        ),
        Mistake(
            lambda p, mass: np.flatnonzero(np.cumsum(p) - p < mass),
            "Take the likeliest tokens first. You take them in the order of their positions.",
        ),
        Mistake(
            lambda p, mass: np.flatnonzero(p >= mass * p.max()),
            "That is min-p. Top-p adds up the probabilities of the likeliest until they have the mass.",
        ),
    ),
)

# The key/value cache


def _package_cache(q, k, v, keys, values_):
    """The package's cache, filled with what there is, stores the new ones and gives all."""
    n, (T, D) = len(keys), q.shape
    cache = KeyValueCache(GPTConfig(vocab_size=1, block_size=n + T, n_layer=1, n_head=1, n_embd=D), 1, np.float64)
    if n:
        cache.layers[0].store(*heads(keys, values_))
    cache.length = n
    all_keys, all_values = cache.layers[0].store(*heads(k, v))
    y, _, _ = kernels.attention_forward(*heads(q), all_keys, all_values, 1 / math.sqrt(D))
    return y[0, :, 0], all_keys[0, :, 0].copy(), all_values[0, :, 0].copy()


def _cached(q, k, v, keys, values_, hidden=lambda q, k: later(q, k, len(k) - len(q)), **wrong):
    keys, values_ = np.concatenate([keys, k]), np.concatenate([values_, v])
    return attention(q, keys, values_, hidden=hidden(q, keys), **wrong), keys, values_


def _cache_case(n, T):
    return {**queries_keys_values(T, T, 3), "keys": values(n, 3, seed=3), "values": values(n, 3, seed=4)}


KV_CACHE = Exercise(
    name="kv_cache",
    title="The key/value cache.",
    task="""
n positions have been through attention already, and their keys and values are
kept. Now come T new ones, with their q, k and v. Mostly T is 1.

Store the new keys and values after the old ones, and let each new position
look at all earlier ones and at itself: the first new one is at position n.
Scores are divided by sqrt(D), as before. Don't change the arrays that you are
given: return new ones.
""",
    read="docs/course/09-sampling.md, npgpt/generation/cache.py (after you tried)",
    signature="attend_with_cache(q, k, v, keys, values)",
    gives="q, k, v (T, D) of new positions; keys, values (n, D) -> y (T, D), keys (n + T, D), values (n + T, D)",
    outputs=("y", "keys", "values"),
    reference=_package_cache,
    cases=(
        Case("3 positions are kept, one is new", _cache_case(3, 1)),
        Case("3 are kept, 2 are new", _cache_case(3, 2)),
        Case("nothing is kept yet, 3 are new", _cache_case(0, 3)),
        Case("scores of thousands", {**_cache_case(3, 1), "q": 1000 * values(1, 3)}),
    ),
    mistakes=(
        Mistake(
            lambda q, k, v, keys, values: (attention(q, keys, values), None, None),
            "The new position doesn't see itself: store its key and value first, and then look.",
        ),
        Mistake(
            lambda q, k, v, keys, values: (attention(q, k, v), None, None),
            "The new position sees itself alone. What are the kept keys for?",
        ),
        Mistake(
            partial(_cached, hidden=lambda q, k: later(q, k)),
            "The cache holds n positions. Which position has the first new one? Your mask takes it for position 0.",
        ),
        Mistake(
            partial(_cached, hidden=lambda q, k: later(q, k, len(k))),
            "Of two new positions, the first one sees the second: a mask is still needed where T is above 1.",
        ),
        Mistake(
            lambda q, k, v, keys, values: (None, np.concatenate([k, keys]), np.concatenate([v, values])),
            "The new keys and values belong after the old ones.",
        ),
        Mistake(
            lambda q, k, v, keys, values: (None, keys, values),
            "The next token will need the new key and value as well: return them with the others.",
        ),
        Mistake(
            lambda q, k, v, keys, values: (None, np.concatenate([k, keys[len(k) :]]), np.concatenate([v, values[1:]])),
            "The new ones are written over the old ones. How many positions are there now?",
        ),
        Mistake(
            partial(_cached, softmax=without_maximum),
            "What is exp(1000)? Subtract each row's largest score first: the weights stay the same.",
        ),
    ),
)
