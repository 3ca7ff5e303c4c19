import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, rows, seeds
from helpers.tolerances import rounding
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("cross_entropy"))
def test_stored(case):
    check_stored(case)


def draw_targets(draw, shape, V):
    """With some of them ignored, but not all: then the loss is NaN, see below. ``shape`` is not empty."""
    rng = np.random.default_rng(draw(seeds))
    ignore_index = draw(st.sampled_from([-100, -1, 0]))
    targets = rng.integers(V, size=shape)
    targets[rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = ignore_index
    targets[(0,) * len(shape)] = V - 1
    if ignore_index == V - 1:
        ignore_index = -100
        targets[targets < 0] = 0
    return {"targets": targets, "ignore_index": ignore_index}


@requires_torch
@given(st.data(), rows().filter(lambda shape: 0 not in shape), st.sampled_from([1, 1e4, 1e30]))
def test_against_torch(data, shape, size):
    logits = data.draw(normal(shape)) * np.float32(size)
    check("cross_entropy", {"logits": logits}, draw_targets(data.draw, shape[:-1], shape[-1]))


def test_an_even_guess_costs_log_V():
    loss = ops.cross_entropy(Tensor(np.zeros((3, 50))), [0, 7, 49])
    np.testing.assert_allclose(loss.item(), np.log(50), rtol=1e-15)


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (0, 3), (2, 0, 3), (2, 0), (0, 0)])
def test_nothing_to_predict_is_not_a_number_and_its_gradient_zero(shape):
    """All ignored; no rows at all; and no vocabulary, in which all that a target can be is ignored."""
    logits = Tensor(np.ones(shape), requires_grad=True)
    loss = ops.cross_entropy(logits, np.full(shape[:-1], -100))
    assert np.isnan(loss.item())
    loss.backward()
    np.testing.assert_array_equal(logits.grad, np.zeros(shape))


@given(st.data(), rows().filter(lambda shape: 0 not in shape), st.sampled_from([1e-3, 1, -50, 1e4, -1e4, 1e8]))
def test_adding_to_all_logits_changes_nothing(data, shape, shift):
    """Neither the loss nor the gradient, of which each row adds up to 0."""
    x = data.draw(normal(shape)).astype(np.float64)
    targets = draw_targets(data.draw, shape[:-1], shape[-1])
    results = []
    for logits in (Tensor(x, requires_grad=True), Tensor(x + shift, requires_grad=True)):
        loss = ops.cross_entropy(logits, **targets)
        loss.backward()
        results.append((loss.data, logits.grad))
    # A shifted logit is rounded by u (|x| + |shift|), which moves a loss by as much, and a probability relatively.
    allowed = rounding(np.float64, shape[-1]) * (np.abs(x).max() + abs(shift) + 1)
    (loss, gradient), (shifted_loss, shifted_gradient) = results
    np.testing.assert_allclose(shifted_loss, loss, rtol=0, atol=allowed)
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=0, atol=allowed)
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, rtol=0, atol=allowed)


def test_the_mean_of_many_losses_is_added_in_float64():
    """2^24 + 1 is not a float32, so a float32 sum of losses of 1 would stop growing; here 0.5 would be half lost."""
    N = 1 << 17
    logits = np.zeros((N, 2), np.float32)
    logits[0] = [0, 2**24]
    loss = ops.cross_entropy(Tensor(logits), np.zeros(N, np.int64))
    np.testing.assert_allclose(loss.item(), (2**24 + (N - 1) * np.log(2)) / N, rtol=np.finfo(np.float32).eps)


@pytest.mark.parametrize("wrong", [-1, 3, -101])
def test_a_target_outside_the_vocabulary(wrong):
    with pytest.raises(IndexError, match=f"token id {wrong} is outside the vocabulary of 3"):
        ops.cross_entropy(Tensor(np.ones((2, 3))), [0, wrong])


def test_targets_that_do_not_fit():
    with pytest.raises(ValueError, match="targets have shape"):
        ops.cross_entropy(Tensor(np.ones((2, 3))), [0, 1, 2])
    with pytest.raises(TypeError, match="whole numbers"):
        ops.cross_entropy(Tensor(np.ones((2, 3))), [0.0, 1.0])
