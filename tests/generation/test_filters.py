"""Each filter against a plain version that looks at every token by itself, and at its edges."""

import math
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from helpers.tolerances import rounding
from hypothesis import assume, example, given
from hypothesis import strategies as st

from npgpt.generation import filters

# Few different values, so that there are ties, and values that differ by more than rounding.
numbers = st.floats(-8, 8).map(lambda x: round(x, 2)) | st.sampled_from([-1.0, 0.0, 2.0])
rows = st.lists(numbers, min_size=1, max_size=12).map(np.array)
masses = st.floats(0.001, 0.999)
few = st.integers(1, 3)  # so many are sorted first, so that rows of this size may need a second attempt


def plain_softmax(logits, temperature=1.0):
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    return np.array([w / math.fsum(weights) for w in weights])


def first_with_mass(p, order, mass):
    kept, total = [], 0.0
    for i in order:
        # Where the sum is the limit but for rounding, either answer is right: leave such cases out.
        assume(abs(total - mass) > 1e-12)
        if total < mass:
            kept.append(i)
        total += p[i]
    return sorted(kept)


# Probabilities


@given(rows, st.floats(0.05, 20), st.sampled_from([np.float32, np.float64]))
def test_softmax(row, temperature, dtype):
    row = row.astype(dtype)
    found = filters.softmax(row, temperature)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, plain_softmax(row.tolist(), temperature), rtol=1e-12)


@given(rows)
def test_log_softmax(row):
    found = filters.log_softmax(row.astype(np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.log(plain_softmax(row.astype(np.float32).tolist())), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1.0, 1e9])
def test_softmax_of_extreme_logits(temperature):
    logits = np.array([-np.inf, -1e30, 1e30, 1e30], np.float32)
    np.testing.assert_array_equal(filters.softmax(logits, temperature), [0, 0, 0.5, 0.5])


def test_a_row_is_not_changed():
    row = np.array([0.1, 0.2, 0.3, 0.4])
    for call in (
        lambda: filters.softmax(row, 2.0),
        lambda: filters.log_softmax(row),
        lambda: filters.top_k(row, 2),
        lambda: filters.top_p(row, 0.5),
        lambda: filters.min_p(row, 0.5),
        lambda: filters.typical_p(row, 0.5),
    ):
        call()
        np.testing.assert_array_equal(row, [0.1, 0.2, 0.3, 0.4])


# The filters


@given(rows, st.integers(1, 15), st.sampled_from([np.float32, np.float64]))
def test_top_k(row, k, dtype):
    kth = sorted(row.tolist(), reverse=True)[:k][-1]
    np.testing.assert_array_equal(filters.top_k(row.astype(dtype), k), [i for i, x in enumerate(row) if x >= kth])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_k_never_keeps_what_is_banned(k, dtype):
    row = np.array([-np.inf, 1, -np.inf, np.finfo(dtype).min], dtype)
    np.testing.assert_array_equal(filters.top_k(row, k), [1, 3][:k])


@given(rows, masses, few)
@example(np.zeros(5), 0.5, 2)
def test_top_p(row, mass, first_sorted):
    p = plain_softmax(row)
    expected = first_with_mass(p, sorted(range(len(p)), key=lambda i: (-p[i], i)), mass)
    with patch.object(filters, "_FIRST_SORTED", first_sorted):
        np.testing.assert_array_equal(filters.top_p(p, mass), expected)


@pytest.mark.parametrize(
    ("mass", "kept"),
    [(0, [1]), (1e-9, [1]), (0.49, [1]), (0.51, [1, 2]), (0.79, [1, 2]), (0.81, [0, 1, 2]), (0.91, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_token_that_crosses_the_line_and_of_equals_the_first(mass, kept):
    np.testing.assert_array_equal(filters.top_p(np.array([0.1, 0.5, 0.3, 0.1]), mass), kept)


def test_top_p_takes_no_more_than_it_needs_when_the_sum_is_exact():
    np.testing.assert_array_equal(filters.top_p(np.full(4, 0.25), 0.5), [0, 1])


@given(rows, st.floats(0, 1))
def test_min_p(row, fraction):
    p = plain_softmax(row)
    assume((abs(p - fraction * max(p)) > 1e-12).all() or fraction == 1)
    np.testing.assert_array_equal(filters.min_p(p, fraction), [i for i, x in enumerate(p) if x >= fraction * max(p)])


def test_the_ends_of_min_p():
    p = np.array([0.0, 0.3, 0.3, 0.4])
    np.testing.assert_array_equal(filters.min_p(p, 0), [0, 1, 2, 3])
    np.testing.assert_array_equal(filters.min_p(p, 1), [3])
    np.testing.assert_array_equal(filters.min_p(p[:3] / 0.6, 1), [1, 2])


@given(rows, masses, few)
@example(np.zeros(5), 0.5, 2)
def test_typical_p(row, mass, first_sorted):
    p = plain_softmax(row)
    entropy = -math.fsum(x * math.log(x) for x in p)
    distances = [abs(-math.log(x) - entropy) for x in p]
    # Distances that differ by rounding alone belong to tokens on both sides of the entropy, whose order is open.
    ascending = sorted(set(distances))
    assume(all(b - a > 1e-12 for a, b in pairwise(ascending)))
    last = max(distances[i] for i in first_with_mass(p, np.argsort(distances, kind="stable"), mass))
    with patch.object(filters, "_FIRST_SORTED", first_sorted):
        np.testing.assert_array_equal(filters.typical_p(p, mass), [i for i, d in enumerate(distances) if d <= last])


def test_typical_p_with_tokens_that_cannot_come():
    """Their surprise is infinite, and 0 times infinity is no number."""
    np.testing.assert_array_equal(filters.typical_p(np.array([0.0, 0.5, 0.0, 0.5]), 0.3), [1, 3])
    np.testing.assert_array_equal(filters.typical_p(np.array([0.0, 1.0]), 0.999), [1])


@pytest.mark.parametrize("rule", [filters.top_p, filters.typical_p])
def test_a_mass_of_one_keeps_all(rule):
    """Also where rounding makes the sum 1 before the end."""
    p = np.array([1.0, 1e-30, 0.0])
    np.testing.assert_array_equal(rule(p, 1), [0, 1, 2])


@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 0.999])
def test_what_is_sorted_first_makes_no_difference_with_many_tokens(spread, mass):
    """3,000 tokens, rounded so that many are equal; sorting all of them is the plain way."""
    logits = np.random.default_rng(0).standard_normal(3000).round(1) * spread
    p = filters.softmax(logits)
    assert len(np.unique(p)) < 200
    for rule in (filters.top_p, filters.typical_p):
        found = rule(p, mass)
        with patch.object(filters, "_FIRST_SORTED", len(p)):
            np.testing.assert_array_equal(found, rule(p, mass))
        assert p[found].sum() >= mass * (1 - rounding(np.float64, len(p)))


@pytest.mark.parametrize(("mass", "sorted_ones"), [(0.9, [256]), (0.9999999, [256, 3000])])
def test_all_are_sorted_only_if_the_first_are_not_enough(mass, sorted_ones):
    """Or every token would take longer: the likeliest 256 of these 3,000 have 0.9 together."""
    p = filters.softmax(np.random.default_rng(0).standard_normal(3000) * 3)
    with patch.object(filters.np, "sort", wraps=np.sort) as sort:
        filters.top_p(p, mass)
    assert [len(call.args[0]) for call in sort.call_args_list] == sorted_ones
    with patch.object(filters.np, "argsort", wraps=np.argsort) as argsort:
        filters.typical_p(p, mass)
    assert [len(call.args[0]) for call in argsort.call_args_list] == sorted_ones
