"""From logits to the next token: against a plain version, at the edges of each rule, and by counting draws."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from npgpt.errors import ConfigError
from npgpt.generation import Sampling


def rng(seed=0):
    return np.random.default_rng(seed)


def logs(*probabilities):
    """Logits of a batch of one, with these probabilities."""
    with np.errstate(divide="ignore"):
        return np.log([probabilities])


# What is refused

WRONG = {
    "temperature": [-0.1, math.nan, math.inf, -math.inf, "1", None, True, [1.0]],
    "top_k": [-1, 1.0, 2.5, math.nan, "3", True],
    "top_p": [0, 0.0, -0.1, 1.1, math.nan, math.inf, "0.9", True],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_its_name(field, value):
    with pytest.raises(ConfigError, match=rf"\b{field}\b"):
        Sampling(**{field: value})


def test_the_ends_of_what_is_allowed():
    Sampling(temperature=0, top_k=1, top_p=1)
    Sampling(temperature=1e-300, top_k=10**9, top_p=1e-300)
    Sampling(np.float32(0.5), np.int64(3), np.float64(0.5))


# Probabilities


def plain_probabilities(logits, temperature, top_k, top_p):
    """One row: temperature, then top_k, then top_p of what is left, each token by itself."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    if top_k is not None:
        kth = sorted(logits, reverse=True)[:top_k][-1]
        weights = [w if x >= kth else 0.0 for w, x in zip(weights, logits, strict=True)]
    p = [w / math.fsum(weights) for w in weights]
    if top_p is not None:
        kept, total = set(), 0.0
        for i in sorted(range(len(p)), key=lambda i: (-p[i], i)):
            # Where the sum is the limit but for rounding, either answer is right: leave such cases out.
            assume(top_p == 1 or abs(total - top_p) > 1e-12)
            if total < top_p or top_p == 1:
                kept.add(i)
            total += p[i]
        p = [x if i in kept else 0.0 for i, x in enumerate(p)]
    return [x / math.fsum(p) for x in p]


# Logits that differ at all differ by more than rounding: 0 and 1e-300 would be alike once 1 is taken from both.
logits_apart = st.floats(-20, 20).map(lambda x: round(x, 3))


@given(
    st.lists(logits_apart | st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=12),
    st.floats(0.05, 20),
    st.none() | st.integers(1, 15),
    st.none() | st.floats(1e-6, 1),
    st.sampled_from([np.float32, np.float64]),
)
@example([0.0] * 5, 1.0, 3, 0.5, np.float64)
@example([0.0, 1.0, 1.0, 1.0, 2.0], 0.7, 2, 1.0, np.float32)
def test_probabilities(logits, temperature, top_k, top_p, dtype):
    row = np.array(logits, dtype)
    expected = plain_probabilities(row.astype(np.float64).tolist(), temperature, top_k, top_p)
    found = Sampling(temperature, top_k, top_p).probabilities(np.stack([row, row[::-1]]))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0], expected, rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(found[0] == 0, np.array(expected) == 0)


def test_a_batchs_rows_are_treated_separately():
    logits = rng().standard_normal((5, 9))
    for sampling in (
        Sampling(0.5, None),
        Sampling(1.0, top_k=3),
        Sampling(1.0, None, top_p=0.6),
        Sampling(2.0, 5, 0.8),
    ):
        together = sampling.probabilities(logits)
        for row, alone in zip(together, logits, strict=True):
            np.testing.assert_allclose(row, sampling.probabilities(alone[None])[0], rtol=1e-14)


def test_temperature_divides_logits():
    np.testing.assert_allclose(
        Sampling(2.0, None).probabilities(logs(0.64, 0.36)), [[0.8 / 1.4, 0.6 / 1.4]], rtol=1e-14
    )
    np.testing.assert_allclose(
        Sampling(0.5, None).probabilities(logs(0.6, 0.4)), [[0.36 / 0.52, 0.16 / 0.52]], rtol=1e-14
    )


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, [0, 1, 0, 0]),
        (2, [0, 5 / 8, 3 / 8, 0]),
        (3, [0, 5 / 9, 3 / 9, 1 / 9]),
        (4, [0.1, 0.5, 0.3, 0.1]),
        (5, [0.1, 0.5, 0.3, 0.1]),  # more than there are
    ],
)
def test_top_k(top_k, expected):
    logits = logs(0.1, 0.5, 0.3, 0.1) - [[1e-9, 0, 0, 0]]  # the first is a little less likely than the last
    np.testing.assert_allclose(Sampling(1.0, top_k=top_k).probabilities(logits), [expected], rtol=1e-8)


def test_top_k_keeps_all_that_are_as_likely_as_the_kth():
    expected = [[0.1, 0.5, 0.3, 0.1]]
    np.testing.assert_allclose(Sampling(1.0, top_k=3).probabilities(logs(0.1, 0.5, 0.3, 0.1)), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (1e-9, [0, 1, 0, 0]),  # never nothing
        (0.49, [0, 1, 0, 0]),
        (0.51, [0, 5 / 8, 3 / 8, 0]),  # the one that crosses the line is in
        (0.79, [0, 5 / 8, 3 / 8, 0]),
        (0.81, [1 / 9, 5 / 9, 3 / 9, 0]),  # of two that are equally likely the first
        (0.91, [0.1, 0.5, 0.3, 0.1]),
        (1.0, [0.1, 0.5, 0.3, 0.1]),
    ],
)
def test_top_p(top_p, expected):
    np.testing.assert_allclose(
        Sampling(1.0, None, top_p=top_p).probabilities(logs(0.1, 0.5, 0.3, 0.1)), [expected], rtol=1e-14
    )


def test_top_p_takes_no_more_than_it_needs_when_the_sum_is_exact():
    np.testing.assert_array_equal(Sampling(1.0, None, top_p=0.5).probabilities(np.zeros((1, 4))), [[0.5, 0.5, 0, 0]])


def test_top_p_counts_what_top_k_and_temperature_left():
    """Of 0.4, 0.3, 0.2, 0.1 top_k leaves 4/7 and 3/7, and 0.5 of those is the first alone; of all it would be two."""
    np.testing.assert_allclose(
        Sampling(1.0, top_k=2, top_p=0.5).probabilities(logs(0.4, 0.3, 0.2, 0.1)), [[1, 0, 0, 0]]
    )
    np.testing.assert_allclose(Sampling(0.5, None, top_p=0.6).probabilities(logs(0.5, 0.3, 0.2)), [[1, 0, 0]])


def test_extreme_logits_are_no_trouble():
    logits = np.array([[-1e30, 0.0, 1e30, 1e30]], np.float32)
    for sampling in (Sampling(1.0, None), Sampling(1e-3, None), Sampling(1.0, top_k=2), Sampling(1.0, None, top_p=0.9)):
        np.testing.assert_array_equal(sampling.probabilities(logits), [[0, 0, 0.5, 0.5]])


# Draws


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, None),
        Sampling(0.7, None),
        Sampling(1.0, top_k=3),
        Sampling(1.0, None, top_p=0.7),
        Sampling(1.5, 5, 0.9),
    ],
)
def test_draws_are_as_frequent_as_their_probabilities(sampling):
    """Pearson's chi-square: with n outcomes its mean is n - 1 and its variance 2 (n - 1)."""
    draws, logits = 20_000, np.array([1.0, -0.5, 0.3, 2.0, 0.0, -2.0])
    p = sampling.probabilities(logits[None])[0]
    counts = np.bincount(sampling.next_tokens(np.tile(logits, (draws, 1)), rng()), minlength=6)
    assert (counts[p == 0] == 0).all()
    expected = draws * p[p > 0]
    chi_square = ((counts[p > 0] - expected) ** 2 / expected).sum()
    degrees = len(expected) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_a_batchs_rows_are_drawn_separately():
    logits = np.zeros((2, 4))
    generator = rng()
    pairs = np.array([Sampling(1.0, None).next_tokens(logits, generator) for _ in range(1600)])
    counts = np.bincount(pairs @ [4, 1], minlength=16)
    assert ((counts - 100) ** 2 / 100).sum() < 15 + 5 * math.sqrt(30)


class Always:
    """A generator whose random numbers are all the same."""

    def __init__(self, number):
        self.number = number

    def random(self, n):
        return np.full(n, self.number)


@pytest.mark.parametrize(
    ("sampling", "first", "last"),
    [(Sampling(1.0, None), 0, 4), (Sampling(1.0, top_k=2), 1, 3), (Sampling(1.0, None, top_p=0.5), 1, 3)],
)
def test_the_smallest_and_largest_random_numbers_give_the_first_and_last_token_that_is_left(sampling, first, last):
    logits = np.repeat(logs(0.1, 0.3, 0.1, 0.4, 0.1), 2, axis=0)
    np.testing.assert_array_equal(sampling.next_tokens(logits, Always(0.0)), [first, first])
    np.testing.assert_array_equal(sampling.next_tokens(logits, Always(np.nextafter(1, 0))), [last, last])


def test_the_same_generator_draws_the_same():
    logits = rng(1).standard_normal((50, 20))
    first = Sampling(1.0, None).next_tokens(logits, rng(5))
    np.testing.assert_array_equal(first, Sampling(1.0, None).next_tokens(logits, rng(5)))
    assert (first != Sampling(1.0, None).next_tokens(logits, rng(6))).any()


def test_greedy_takes_the_likeliest_and_of_equals_the_first():
    logits = np.array([[0.0, 3.0, 2.0, 3.0], [5.0, -1.0, 4.0, 4.9]])
    generator = rng()
    state = generator.bit_generator.state
    np.testing.assert_array_equal(Sampling(temperature=0, top_k=2, top_p=0.5).next_tokens(logits, generator), [1, 0])
    assert generator.bit_generator.state == state


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused(temperature, number):
    logits = np.zeros((2, 5), np.float32)
    logits[1, 3] = number
    with pytest.raises(FloatingPointError, match="not finite"):
        Sampling(temperature, None).next_tokens(logits, rng())
