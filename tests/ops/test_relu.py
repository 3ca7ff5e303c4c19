import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, shapes
from hypothesis import given

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("relu"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(shapes.flatmap(normal))
def test_against_torch(x):
    check("relu", {"x": np.where(np.abs(x) < 0.1, 0, x)})


def test_not_a_number_comes_out():
    x = Tensor(np.array([np.nan, np.inf, -np.inf, -1, 1]), requires_grad=True)
    y = ops.relu(x)
    np.testing.assert_array_equal(y.data, [np.nan, np.inf, 0, 0, 1])
    y.backward(np.array([1, np.inf, np.inf, np.nan, np.nan]))
    np.testing.assert_array_equal(x.grad, [1, np.inf, 0, 0, np.nan])  # where nothing goes back, whatever dy is
