"""Penalties: logits that depend on the text so far, or on what the user bans. Each is one rule, for ONE row.

Each takes logits (V,) and returns new ones, in the same dtype. What is banned gets -inf. ``Sampling`` (sampling.py)
applies them. ``ids`` are those of the text so far, prompt included, and ``generated`` those after the prompt.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from npgpt.errors import ConfigError


def logit_bias(logits: np.ndarray, bias: Mapping[int, float]) -> np.ndarray:
    """Add bias[id] to the logit of each id in ``bias``; -inf bans it. Raises ConfigError on an id outside V.

    Source: OpenAI's API reference, ``logit_bias``; transformers' ``sequence_bias`` for sequences of one token.

    >>> logit_bias(np.array([1.0, 2.0, 3.0]), {0: 5.0, 2: -1.0})
    array([6., 2., 2.])
    """
    ids = np.fromiter(bias.keys(), np.int64, len(bias))
    _require_in_vocabulary("logit_bias", ids, logits)
    logits = logits.copy()
    logits[ids] += np.fromiter(bias.values(), np.float64, len(bias))
    return logits


def repetition(logits: np.ndarray, ids: np.ndarray, penalty: float) -> np.ndarray:
    """Divide the logits of all ids of the text by the penalty; multiply those that are negative.   ids (n,)

    Above 1 it makes repetition less likely. As in the paper's code and in transformers the ids of the prompt count too,
    so that the words of a question are penalised in its answer, and a logit of 0 stays. What a penalty does depends on
    where 0 is, although adding a number to all logits changes no probability.

    Source: Keskar et al. 2019 (CTRL), section 4.1; multiplying negative logits is transformers' correction of it.

    >>> repetition(np.array([2.0, 2.0, -2.0]), np.array([1, 2, 2]), 2.0)
    array([ 2.,  1., -4.])
    """
    logits = logits.copy()
    x = logits[ids]
    logits[ids] = np.where(x < 0, x * penalty, x / penalty)  # an id that appears twice is written twice, the same
    return logits


def presence(logits: np.ndarray, generated: np.ndarray, penalty: float) -> np.ndarray:
    """Subtract the penalty from the logits of all ids generated so far.   generated (n,)

        x_j - penalty * (c_j > 0),    c_j: how often j was generated

    The prompt doesn't count: OpenAI's c_j is "how often that token was sampled", and vLLM counts the same.

    Source: OpenAI's documentation, "Frequency and presence penalties".

    >>> presence(np.array([2.0, 2.0, 2.0]), np.array([1, 2, 2]), 0.5)
    array([2. , 1.5, 1.5])
    """
    logits = logits.copy()
    logits[np.unique(generated)] -= penalty
    return logits


def frequency(logits: np.ndarray, generated: np.ndarray, penalty: float) -> np.ndarray:
    """Subtract the penalty from the logits of ids generated so far, once for each time.   generated (n,)

        x_j - penalty * c_j,    c_j: how often j was generated, as in ``presence``

    >>> frequency(np.array([2.0, 2.0, 2.0]), np.array([1, 2, 2]), 0.5)
    array([2. , 1.5, 1. ])
    """
    logits = logits.copy()
    ids, counts = np.unique(generated, return_counts=True)
    logits[ids] -= penalty * counts
    return logits


def no_repeat_ngram(logits: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Ban each id that would complete n ids in a row which are in the text already.   ids (T,), n >= 1

    As in transformers the prompt counts, and n = 1 bans every id of the text.

    Source: Paulus, Xiong & Socher 2018, section 2.5 (for n = 3, in beam search).

    >>> no_repeat_ngram(np.zeros(5), np.array([3, 1, 4, 3, 1]), 3)  # 3 1 was followed by 4
    array([  0.,   0.,   0.,   0., -inf])
    """
    if len(ids) < n:
        return logits
    ngrams = np.lib.stride_tricks.sliding_window_view(ids, n)
    would_repeat = (ngrams[:, :-1] == ids[len(ids) - n + 1 :]).all(axis=1)
    return _banned(logits, ngrams[would_repeat, -1])


def bad_words(
    logits: np.ndarray, ids: np.ndarray, words: Sequence[Sequence[int]], stop_ids: Iterable[int] = ()
) -> np.ndarray:
    """Ban the last id of each word, a sequence of ids, if the text ends with the others.   ids (n,)

    As in transformers the word may have begun in the prompt, and a word that is one stop id alone is not banned: that
    is what a minimum length is for. Raises ConfigError on an id outside V.

    >>> bad_words(np.zeros(5), np.array([0, 3]), [[1], [3, 4], [4, 2]])
    array([  0., -inf,   0.,   0., -inf])
    """
    _require_in_vocabulary("bad_words", [id for word in words for id in word], logits)
    longest = max((len(word) for word in words), default=1)
    end = tuple(ids[max(0, len(ids) - longest + 1) :].tolist())
    single_stops = {(id,) for id in stop_ids}
    last = [
        word[-1]
        for word in map(tuple, words)
        if len(word) - 1 <= len(end) and end[len(end) - len(word) + 1 :] == word[:-1] and word not in single_stops
    ]
    return _banned(logits, last)


def min_new_tokens(logits: np.ndarray, generated: np.ndarray, minimum: int, stop_ids: Iterable[int]) -> np.ndarray:
    """Ban the ids that end a text until ``minimum`` ids are generated.   generated (n,)

    >>> min_new_tokens(np.zeros(3), np.array([0, 0]), 3, {2})
    array([  0.,   0., -inf])
    """
    if len(generated) >= minimum:
        return logits
    return _banned(logits, [id for id in stop_ids if id < len(logits)])


def only_allowed(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Ban what a constraint doesn't allow.   allowed (V,) of bool

    >>> only_allowed(np.zeros(3), np.array([True, False, True]))
    array([  0., -inf,   0.])
    """
    if allowed.shape != logits.shape:
        raise ConfigError(f"the constraint is for a vocabulary of {allowed.size}, and the model's has {logits.size}")
    return np.where(allowed, logits, logits.dtype.type(-np.inf))


def _banned(logits, ids):
    logits = logits.copy()
    logits[np.asarray(ids, np.int64)] = -np.inf
    return logits


def _require_in_vocabulary(name, ids, logits):
    largest = max(ids, default=0)
    if largest >= len(logits):
        raise ConfigError(f"{name} has the id {largest}, and the model's ids end at {len(logits) - 1}")
