import sys

import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import leading, normal, positive_sizes, small_sizes
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, kernels, no_grad, ops
from ops.test_cross_entropy import draw_targets


@pytest.mark.parametrize("case", stored_cases("linear_cross_entropy"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(st.data(), leading.filter(all), small_sizes, positive_sizes)
def test_against_torch(data, rows, C, V):
    inputs = {"x": data.draw(normal((*rows, C))), "weight": data.draw(normal((V, C)))}
    # At least 1. A logit z is rounded by u |z|, and exp(z) in the gradients then is off by as much of itself.
    largest_logit = np.abs(inputs["x"].astype(np.float64) @ inputs["weight"].T).max(initial=1)
    check("linear_cross_entropy", inputs, draw_targets(data.draw, rows, V), largest_logit)


def example():
    rng = np.random.default_rng(0)
    x, weight = (Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((4, 6), (9, 6)))
    return x, weight, np.array([8, -100, 0, 8])


def test_without_gradients_the_loss_is_the_same_and_none_is_prepared(monkeypatch):
    x, weight, targets = example()
    loss = ops.linear_cross_entropy(x, weight, targets)
    monkeypatch.delattr(kernels, "cross_entropy_backward")
    x, weight, targets = example()
    with no_grad():
        without = ops.linear_cross_entropy(x, weight, targets)
    assert without.item() == loss.item()
    assert not without.requires_grad


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 4, 100])
def test_it_is_the_two_operations_after_one_another(at_a_time, monkeypatch):
    """However many rows are taken at a time."""
    monkeypatch.setattr(sys.modules["npgpt.ops.linear_cross_entropy"], "ROWS", at_a_time)  # ops has the function
    x, weight, targets = example()
    (ops.linear_cross_entropy(x, weight, targets) * 3).backward()
    fused, x.grad, weight.grad = (x.grad, weight.grad), None, None
    (ops.cross_entropy(x @ weight.T, targets) * 3).backward()
    # sums of at most 9 numbers of order 1
    np.testing.assert_allclose(fused[0], x.grad, rtol=0, atol=1e-14)
    np.testing.assert_allclose(fused[1], weight.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("rows", "C", "V"), [((4,), 6, 9), ((0,), 6, 9), ((2, 0), 6, 9), ((4,), 0, 9), ((4,), 6, 0)])
def test_nothing_to_predict(rows, C, V):
    x, weight = (Tensor(np.ones(shape), requires_grad=True) for shape in ((*rows, C), (V, C)))
    loss = ops.linear_cross_entropy(x, weight, np.full(rows, -100))
    assert np.isnan(loss.item())
    loss.backward()
    np.testing.assert_array_equal(x.grad, np.zeros(x.shape))
    np.testing.assert_array_equal(weight.grad, np.zeros(weight.shape))


def test_what_does_not_fit():
    x, weight, targets = example()
    with pytest.raises(ValueError, match="linear_cross_entropy: x"):
        ops.linear_cross_entropy(x, weight.T, targets)
    with pytest.raises(ValueError, match="targets have shape"):
        ops.linear_cross_entropy(x, weight, targets[1:])
    with pytest.raises(IndexError, match="token id 9 is outside the vocabulary of 9"):
        ops.linear_cross_entropy(x, weight, targets + 1)
