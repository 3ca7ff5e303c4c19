import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, shapes
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("dropout"))
def test_stored(case):
    """The stored case also holds the mask fast: another one would break resumed runs without a word."""
    check_stored(case)


@requires_torch
@given(shapes.flatmap(normal), st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.integers(0, 2**64 - 1))
def test_against_torch(x, p, seed):
    """With our mask, in forward and backward pass."""
    check("dropout", {"x": x}, {"p": p, "seed": seed})


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_a_p_that_cannot_be(p):
    with pytest.raises(ValueError, match="dropout"):
        ops.dropout(Tensor(np.ones(3)), p, 0)
