import weakref

import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import leading, normal, small_sizes
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("linear"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(st.data(), leading, small_sizes, st.integers(0, 70), st.booleans())
def test_against_torch(data, rows, inputs, outputs, with_bias):
    x, weight = data.draw(normal((*rows, inputs))), data.draw(normal((inputs, outputs)))
    check("linear", {"x": x, "weight": weight, "bias": data.draw(normal((outputs,))) if with_bias else None})


@requires_torch
@given(normal((5, 70)), normal((70, 131)), normal((131,)))
def test_a_large_one_against_torch(x, weight, bias):
    """Large enough for the compiled product."""
    check("linear", {"x": np.tile(x, (10, 1)), "weight": weight, "bias": bias})


@pytest.mark.parametrize("frozen", [True, False])
def test_the_input_is_kept_for_a_weight_that_trains(frozen):
    x, weight = (Tensor(np.ones(shape), requires_grad=True) for shape in ((2, 3), (3, 4)))
    weight.requires_grad = not frozen
    inner = x * 2
    y, kept = ops.linear(inner, weight), weakref.ref(inner.data)
    del inner
    assert (kept() is None) == frozen
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 8))


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [((2, 3), (4, 5), None), ((2, 3), (3, 5), (3,)), ((2, 3), (3, 5), (1, 5)), ((), (3, 5), None), ((3,), (3,), None)],
)
def test_shapes_that_do_not_fit(x, weight, bias):
    x, weight, bias = (None if shape is None else Tensor(np.ones(shape)) for shape in (x, weight, bias))
    with pytest.raises(ValueError, match=r"linear|unpack"):
        ops.linear(x, weight, bias)


def test_dtypes_that_are_not_the_same():
    with pytest.raises(TypeError, match=r"float32.*float64"):
        ops.linear(Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((3, 4))))
