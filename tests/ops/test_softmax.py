import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, rows, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("case", stored_cases("softmax"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(rows(sizes).flatmap(normal), st.sampled_from([1, 1e4, 1e30]))
def test_against_torch(x, size):
    check("softmax", {"x": x * np.float32(size)})


@requires_torch
@given(st.tuples(st.integers(0, 5), st.integers(1, 70)).flatmap(normal), seeds)
def test_masked_against_torch(x, seed):
    """Up to all but one of a row hidden by -inf."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(x.shape) < rng.random()
    hidden[:, rng.integers(x.shape[1])] = False
    check("softmax", {"x": np.where(hidden, -np.inf, x)})
