"""Where a position is: rotary positions, and the key/value cache, in which new ones follow old ones."""

import math
from functools import partial

import numpy as np

from npgpt import kernels, ops
from npgpt.config import GPTConfig
from npgpt.generation.cache import KeyValueCache
from npgpt.teaching.exercises.attention import attention, heads, later, queries_keys_values, without_maximum
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values

# Rotary positions


def _turn(x, sign=1.0, first=0, neighbours=False, exponents=0):
    T, D = x.shape
    angles = np.arange(first, first + T)[:, None] * 10000.0 ** (-(np.arange(0, D, 2) + exponents) / D)
    cos, sin = np.cos(angles), sign * np.sin(angles)
    y = np.empty_like(x)
    a, b = (slice(0, None, 2), slice(1, None, 2)) if neighbours else (slice(0, D // 2), slice(D // 2, None))
    y[:, a] = x[:, a] * cos - x[:, b] * sin
    y[:, b] = x[:, a] * sin + x[:, b] * cos
    return y


def _package_rotary(x):
    """x stands where the queries are, beside keys and values of zero."""
    T, D = x.shape
    place = np.eye(3 * D)[:D]
    return (ops.rotary((x @ place).reshape(1, T, 3 * D), n_head=1).reshape(T, 3 * D)) @ place.T


ROTARY = Exercise(
    name="rotary",
    title="Rotary positions, backward.",
    task="""
Row i of x is the query (or key) of position i = 0, 1, 2 ... Its elements are
taken in pairs: j and j + D/2, for j from 0 to D/2 - 1. Each pair is turned by
an angle t:

    t = i / 10000^(2j / D)
    y_j       = x_j cos t - x_{j + D/2} sin t
    y_{j+D/2} = x_j sin t + x_{j + D/2} cos t

Write dx. Each element of x is in two elements of y.
""",
    read="npgpt/ops/rotary.py (after you tried)",
    signature="rotary_backward(dy, x)",
    gives="dy, x (T, D) with an even D -> dx",
    outputs=("dx",),
    forward=_package_rotary,
    cases=(
        Case("4 positions, D = 6", {"x": values(4, 6)}),
        Case("one position, whose angle is 0", {"x": values(1, 4)}),
        Case("D = 2: one pair", {"x": values(5, 2)}),
    ),
    mistakes=(
        Mistake(
            lambda dy, x: _turn(dy),
            "You turn dy the same way. Which rotation undoes a rotation by an angle? Look at the sign of sin t.",
        ),
        Mistake(
            lambda dy, x: _turn(dy, -1.0, neighbours=True),
            "Which elements are a pair: 0 and 1, or 0 and D/2?",
        ),
        Mistake(lambda dy, x: _turn(dy, -1.0, first=1), "The first position is 0, and not 1."),
        Mistake(
            lambda dy, x: _turn(dy, -1.0, exponents=np.arange(0, x.shape[1], 2)),
            "The exponent is 2j / D, where j is the number of the pair. Check it for the second pair.",
        ),
        Mistake(lambda dy, x: dy, "That is dy. y is x turned."),
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

Store the new keys and values behind the old ones, and let each new position
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
            "The new keys and values belong behind the old ones.",
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
