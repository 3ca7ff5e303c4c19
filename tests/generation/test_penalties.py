"""Each penalty against a plain version, and at its edges. test_strategies_against_transformers.py compares them too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.errors import ConfigError
from npgpt.generation import penalties

V = 6
INF = np.inf
texts = st.lists(st.integers(0, V - 1), max_size=12).map(lambda ids: np.array(ids, np.int64))
dtypes = st.sampled_from([np.float32, np.float64])


def logits(dtype=np.float64):
    return np.array([1.5, -1.0, 0.0, 2.0, -0.25, 0.5], dtype)  # and a penalty of 2 or 0.5 rounds nothing


def check(found, expected, dtype):
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.array(expected, dtype))


@given(st.dictionaries(st.integers(0, V - 1), st.sampled_from([-INF, -100.0, -0.5, 0.0, 3.0])), dtypes)
def test_logit_bias(bias, dtype):
    expected = [x + bias.get(id, 0) for id, x in enumerate(logits())]
    check(penalties.logit_bias(logits(dtype), bias), expected, dtype)


@given(texts, st.sampled_from([0.5, 1.0, 2.0]), dtypes)
def test_repetition(ids, penalty, dtype):
    def changed(x):
        return x * penalty if x < 0 else x / penalty

    expected = [changed(x) if id in ids else x for id, x in enumerate(logits())]
    check(penalties.repetition(logits(dtype), ids, penalty), expected, dtype)


@given(texts, st.sampled_from([-0.5, 0.5, 2.0]), dtypes)
def test_presence_and_frequency(generated, penalty, dtype):
    counts = [generated.tolist().count(id) for id in range(V)]
    once = [x - penalty * (c > 0) for x, c in zip(logits(), counts, strict=True)]
    each = [x - penalty * c for x, c in zip(logits(), counts, strict=True)]
    check(penalties.presence(logits(dtype), generated, penalty), once, dtype)
    check(penalties.frequency(logits(dtype), generated, penalty), each, dtype)


@given(texts, st.integers(1, 5), dtypes)
def test_no_repeat_ngram(ids, n, dtype):
    text = ids.tolist()
    seen = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    expected = [-INF if tuple([*text, id][-n:]) in seen else x for id, x in enumerate(logits())]
    check(penalties.no_repeat_ngram(logits(dtype), ids, n), expected, dtype)


def test_an_ngram_that_is_longer_than_the_text_bans_nothing():
    for ids in ([], [1], [1, 1]):
        check(penalties.no_repeat_ngram(logits(), np.array(ids, np.int64), 3), logits(), np.float64)


@given(texts, st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=4), max_size=6), dtypes)
def test_bad_words(ids, words, dtype):
    text = ids.tolist()
    ends = [[*text, id] for id in range(V)]
    expected = [
        -INF if any(end[-len(word) :] == word for word in words) else x for end, x in zip(ends, logits(), strict=True)
    ]
    check(penalties.bad_words(logits(dtype), ids, words), expected, dtype)


def test_a_bad_word_that_is_one_stop_id_is_not_banned():
    """As in transformers. One that ends with it is."""
    found = penalties.bad_words(logits(), np.array([2]), [[1], [2, 1], [0]], stop_ids={0, 5})
    check(found, [1.5, -INF, 0.0, 2.0, -0.25, 0.5], np.float64)


def test_words_of_many_lengths_at_the_end_of_a_text():
    words = [[4], [3, 0], [2, 3, 1], [9, 2, 3, 5]]
    with pytest.raises(ConfigError, match="bad_words has the id 9"):
        penalties.bad_words(logits(), np.array([2, 3]), words)
    words[-1] = [1, 2, 3, 5]  # longer than the text by two
    check(penalties.bad_words(logits(), np.array([2, 3]), words), [-INF, -INF, 0, 2, -INF, 0.5], np.float64)
    check(penalties.bad_words(logits(), np.array([1, 2, 3]), words), [-INF, -INF, 0, 2, -INF, -INF], np.float64)


@pytest.mark.parametrize(("n", "banned"), [(0, True), (1, True), (2, False), (3, False)])
def test_min_new_tokens(n, banned):
    found = penalties.min_new_tokens(logits(), np.zeros(n, np.int64), 2, {1, 5, V})  # V is no id of the model
    expected = [1.5, -INF, 0.0, 2.0, -0.25, -INF] if banned else logits()
    check(found, expected, np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_allowed(dtype):
    allowed = np.array([True, True, False, False, True, False])
    check(penalties.only_allowed(logits(dtype), allowed), [1.5, -1, -INF, -INF, -0.25, -INF], dtype)


def test_an_id_outside_the_vocabulary_is_refused_by_name():
    penalties.logit_bias(logits(), {V - 1: 1.0})
    with pytest.raises(ConfigError, match=r"logit_bias has the id 6, and the model's ids end at 5"):
        penalties.logit_bias(logits(), {0: 1.0, V: 1.0})


def test_what_is_banned_stays_banned():
    row, ids = logits(), np.array([0, 3])
    row[[0, 2]] = -INF
    for found in (
        penalties.logit_bias(row, {0: 50.0}),
        penalties.repetition(row, ids, 0.5),
        penalties.presence(row, ids, -2.0),
        penalties.frequency(row, ids, -2.0),
        penalties.no_repeat_ngram(row, ids, 2),
        penalties.bad_words(row, ids, [[1]]),
        penalties.min_new_tokens(row, ids, 9, {1}),
        penalties.only_allowed(row, np.ones(V, bool)),
    ):
        assert found[0] == found[2] == -INF
        assert not np.isnan(found).any()
    np.testing.assert_array_equal(np.isinf(row), [True, False, True, False, False, False])  # the row isn't changed
    np.testing.assert_array_equal(row[[1, 3, 4, 5]], logits()[[1, 3, 4, 5]])
