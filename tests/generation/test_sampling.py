"""From logits to the next token: the order of the rules, draws that are counted, and what can't be drawn from.

test_filters.py and test_penalties.py test each rule, and test_strategies_against_transformers.py compares all of them.
"""

import math
import warnings

import numpy as np
import pytest
from helpers.texts import Always
from helpers.tolerances import rounding
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.generation import History, Sampling, filters
from npgpt.generation.sampling import draw

INF = math.inf


def rng(seed=0):
    return np.random.default_rng(seed)


def logs(*probabilities):
    """Logits with these probabilities."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def rule(**settings):
    """These settings alone, without those that are on by default."""
    return Sampling(**{"temperature": 1.0, "top_k": None, **settings})


def text(*ids, prompt_length=0, **more):
    return History(np.array(ids, np.int64), prompt_length, **more)


EMPTY = text()


# The distribution


def test_the_order_of_the_rules():
    """Each value shows that a rule works on what the ones before it left."""
    one = logs(0.4, 0.3, 0.2, 0.1)
    # top_k leaves 4/7 and 3/7, and half of that is the first alone; of all it would be two
    np.testing.assert_allclose(rule(top_k=2, top_p=0.5).distribution(one, EMPTY), [1, 0, 0, 0])
    # temperature makes 0.5, 0.3, 0.2 into 0.66, 0.24, 0.10
    np.testing.assert_allclose(rule(temperature=0.5, top_p=0.6).distribution(logs(0.5, 0.3, 0.2), EMPTY), [1, 0, 0])
    # the bias is part of what the repetition penalty divides: (1 + 3) / 2, and not 1 / 2 + 3
    found = rule(logit_bias={0: 3.0}, repetition_penalty=2.0).penalised(np.array([1.0, 1.0]), text(0))
    np.testing.assert_array_equal(found, [2, 1])
    # the repetition penalty comes before the presence penalty: 1 / 2 - 1, and not (1 - 1) / 2
    found = rule(repetition_penalty=2.0, presence_penalty=1.0).penalised(np.array([1.0, 1.0]), text(0))
    np.testing.assert_array_equal(found, [-0.5, 1])
    # what is banned leaves room among the k likeliest
    found = rule(bad_words=[[0]], top_k=2).distribution(one, EMPTY)
    np.testing.assert_allclose(found, [0, 0.6, 0.4, 0], rtol=1e-12)
    # of 0.4, 0.3, 0.2, 0.1 top_p leaves three; if min_p had left out 0.1 before, the first two would have 0.75
    assert np.count_nonzero(rule(top_p=0.75, min_p=0.4).distribution(one, EMPTY)) == 3
    # top_p leaves 0.4, 0.3, 0.2 of 0.9; typical_p, on all of them, would not take the likeliest
    assert rule(top_p=0.35, typical_p=0.2).distribution(one, EMPTY)[0] == 1
    assert rule(typical_p=0.2).distribution(one, EMPTY)[0] == 0


def test_what_counts_as_the_text_so_far():
    """The prompt is 2 1, and 2 2 was generated; the model had 4 for all."""
    history = text(2, 1, 2, 2, prompt_length=2)
    penalised = {
        "repetition_penalty": (4.0, [4, 1, 1, 4]),
        "presence_penalty": (1.0, [4, 4, 3, 4]),
        "frequency_penalty": (1.0, [4, 4, 2, 4]),
        "no_repeat_ngram_size": (2, [4, -INF, -INF, 4]),
        "bad_words": ([[1, 2, 2, 1], [0, 2, 0]], [4, -INF, 4, 4]),
    }
    for name, (value, expected) in penalised.items():
        np.testing.assert_array_equal(rule(**{name: value}).penalised(np.full(4, 4.0), history), expected)
    history.stop_ids, history.allowed = frozenset({3}), np.array([True, False, True, True])
    np.testing.assert_array_equal(rule(min_new_tokens=3).penalised(np.zeros(4), history), [0, -INF, 0, -INF])
    np.testing.assert_array_equal(rule(min_new_tokens=2).penalised(np.zeros(4), history), [0, -INF, 0, 0])
    # a word that is a stop id alone isn't banned
    np.testing.assert_array_equal(rule(bad_words=[[3], [2]]).penalised(np.zeros(4), history), [0, -INF, -INF, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_greedy_takes_the_likeliest_and_of_equals_the_first(dtype):
    generator = rng()
    state = generator.bit_generator.state
    greedy = rule(temperature=0, top_k=2, top_p=0.5, min_p=0.1, typical_p=0.2)
    row = np.array([0, 3, 2, 3], dtype)
    assert greedy.next_token(row, EMPTY, generator) == 1
    np.testing.assert_array_equal(greedy.distribution(row, EMPTY), [0, 1, 0, 0])
    banned = rule(temperature=0, bad_words=[[1]])
    assert banned.next_token(row, EMPTY, generator) == 3
    assert type(banned.next_token(row, EMPTY, generator)) is int
    assert generator.bit_generator.state == state


def test_extreme_logits_are_no_trouble():
    row = np.array([-1e30, -INF, 1e30, 1e30], np.float32)
    for sampling in (rule(), rule(temperature=1e-300), rule(top_k=2), rule(top_p=0.9), rule(min_p=0.1)):
        np.testing.assert_array_equal(sampling.distribution(row, EMPTY), [0, 0, 0.5, 0.5])


settings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([1e-3, 0.5, 0.8, 1.0, 3.0]),
        "top_k": st.none() | st.integers(0, 15),
        "top_p": st.floats(0.01, 1),
        "min_p": st.floats(0, 1),
        "typical_p": st.floats(0.01, 1),
        "repetition_penalty": st.sampled_from([0.7, 1.3]),
        "presence_penalty": st.sampled_from([-1.0, 0.5]),
        "frequency_penalty": st.sampled_from([-1.0, 0.5]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "logit_bias": st.dictionaries(st.integers(0, 5), st.sampled_from([-INF, -2.0, 1.0]), max_size=3),
        "bad_words": st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), max_size=2),
        "min_new_tokens": st.integers(0, 9),
    },
)
logits = st.lists(st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1.0]), min_size=9, max_size=12)


@given(settings, logits, st.lists(st.integers(0, 7), max_size=8), st.floats(0, 1, exclude_max=True))
@example({}, [0.0] * 9, [], 0.0)
@example({}, [0.0] * 16, [], 0.5)  # a random number that is one of the sums
@example({"top_p": 0.5}, [0.0] * 9, [], float(np.nextafter(1, 0)))
def test_a_draw_is_the_token_at_which_the_distributions_sum_exceeds_the_random_number(settings, row, ids, number):
    """The token comes from a few candidates; here from all of V, added up in the plain way."""
    sampling, row = rule(**settings), np.array(row, np.float32)
    history = text(*ids, prompt_length=len(ids) // 2, stop_ids=frozenset({1}))
    p = sampling.distribution(row, history)
    assert p.shape == row.shape
    assert p.dtype == np.float64
    assert abs(p.sum() - 1) < rounding(np.float64, len(p))
    threshold, total = number * np.cumsum(p)[-1], 0.0
    for token, probability in enumerate(p):  # noqa: B007
        total += probability
        if total > threshold:
            break
    assert sampling.next_token(row, history, Always(number)) == token
    assert p[token] > 0


def test_only_what_top_k_leaves_is_converted_to_float64(monkeypatch):
    """Or a token of 50,257 would take several times as long."""
    sizes = []
    softmax = filters.softmax
    monkeypatch.setattr(filters, "softmax", lambda x, temperature: sizes.append((len(x), x.dtype)) or softmax(x))
    Sampling().next_token(rng().standard_normal(1000).astype(np.float32), EMPTY, rng())
    assert sizes == [(50, np.float32)]


# Draws

# Of the chi-square distribution, the value that one draw in 1,000 exceeds, by degrees of freedom (NIST/SEMATECH
# e-Handbook of Statistical Methods, section 1.3.6.7.4). The seed is fixed, so the test gives the same every time.
CRITICAL = {2: 13.816, 3: 16.266, 4: 18.467, 5: 20.515}


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.9},
        {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2, "logit_bias": {5: 2.0}},
    ],
)
def test_draws_are_as_frequent_as_their_probabilities(settings):
    """Pearson's chi-square over 20,000 draws."""
    draws, row = 20_000, np.array([1.0, -0.5, 0.3, 2.0, 0.0, -2.0], np.float32)
    sampling, history, generator = rule(**settings), text(0, 3, prompt_length=1), rng(1)
    p = sampling.distribution(row, history)
    drawn = [sampling.next_token(row, history, generator) for _ in range(draws)]
    counts = np.bincount(drawn, minlength=6)
    assert (counts[p == 0] == 0).all()
    expected = draws * p[p > 0]
    chi_square = ((counts[p > 0] - expected) ** 2 / expected).sum()
    assert chi_square < CRITICAL[len(expected) - 1]


@pytest.mark.parametrize(("settings", "first", "last"), [({}, 0, 4), ({"top_k": 2}, 1, 3), ({"top_p": 0.5}, 1, 3)])
def test_the_smallest_and_largest_random_numbers_give_the_first_and_last_token_that_is_left(settings, first, last):
    row = logs(0.1, 0.3, 0.1, 0.4, 0.1)
    assert rule(**settings).next_token(row, EMPTY, Always(0.0)) == first
    assert rule(**settings).next_token(row, EMPTY, Always(float(np.nextafter(1, 0)))) == last


def test_draw_never_gives_what_has_no_weight():
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    assert [draw(weights, Always(x)) for x in (0.0, 0.25, np.nextafter(1, 0))] == [1, 3, 3]


def test_the_same_generator_draws_the_same():
    rows = rng(1).standard_normal((50, 20))
    generators = rng(5), rng(5), rng(6)
    first, same, other = ([rule().next_token(row, EMPTY, generator) for row in rows] for generator in generators)
    assert first == same != other


def test_each_draw_takes_one_number_whatever_is_left():
    """So one token's filters don't shift the random numbers of those after it."""
    for settings in ({}, {"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}):
        generator, other = rng(), rng()
        rule(**settings).next_token(logs(0.5, 0.3, 0.2), EMPTY, generator)
        other.random()
        assert generator.bit_generator.state == other.bit_generator.state


# What can't be drawn from


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("number", [math.nan, INF])
def test_logits_that_are_no_numbers_are_refused(temperature, number):
    row = np.zeros(5, np.float32)
    row[3] = number
    for sampling in (rule(temperature=temperature), rule(temperature=temperature, bad_words=[[3]])):
        with pytest.raises(FloatingPointError, match="the model's logits are not finite"):
            sampling.next_token(row, EMPTY, rng())
        with pytest.raises(FloatingPointError, match="the model's logits are not finite"):
            sampling.distribution(row, EMPTY)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_when_nothing_is_left_the_message_says_so(temperature):
    bans, row = rule(temperature=temperature, bad_words=[[0], [1], [2]]), np.zeros(3)
    for arguments in ((bans, row, EMPTY), (rule(), row, text(allowed=np.zeros(3, bool))), (rule(), row - INF, EMPTY)):
        sampling, logits, history = arguments
        with pytest.raises(FloatingPointError, match="no token is left to choose from"):
            sampling.next_token(logits, history, rng())


@pytest.mark.parametrize(
    "huge",
    [
        rule(repetition_penalty=1e-300),
        rule(presence_penalty=-1e308),
        rule(frequency_penalty=-1e308),
        rule(logit_bias={0: 1e308}),
    ],
)
def test_a_penalty_that_makes_a_logit_infinite_is_refused_without_a_warning(huge):
    logits, history = np.array([1e30, 0.0], np.float32), History(np.array([1, 0]), prompt_length=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FloatingPointError, match="a penalty or bias is so large"):
            huge.next_token(logits, history, rng())
        with pytest.raises(FloatingPointError, match="a penalty or bias is so large"):  # as in a beam search
            huge.penalised(logits, history)
