"""The gradients' norm and clipping, against torch's; clipping within a step of AdamW."""

import math

import numpy as np
import pytest
from helpers.tolerances import rounding
from test_optim import arrays, give_gradients, optimizer_of

from npgpt import Tensor, optim
from npgpt.optim import AdamW, clip_grad_norm, clip_scale, grad_norm


def with_gradients(dtype=np.float64, seed=0):
    """Parameters with gradients, and one that has none."""
    parameters = [Tensor(np.zeros_like(g), requires_grad=True) for g in arrays(dtype, seed).values()]
    for p, g in zip(parameters, arrays(dtype, seed).values(), strict=True):
        p.grad = g
    return [*parameters, Tensor(np.zeros(3, dtype), requires_grad=True)]


def norm(parameters):
    return math.sqrt(sum(np.square(p.grad, dtype=np.float64).sum() for p in parameters if p.grad is not None))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 100.0])
def test_clipped_gradients_have_the_norm_and_the_direction(dtype, max_norm):
    parameters = with_gradients(dtype)
    before = [p.grad.copy() for p in parameters[:-1]]
    length = norm(parameters)
    assert clip_grad_norm(parameters, max_norm) == pytest.approx(length, rel=1e-12)
    assert norm(parameters) == pytest.approx(max_norm, rel=rounding(dtype))
    for p, g in zip(parameters, before, strict=False):
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad, g * (max_norm / length), rtol=rounding(dtype))
    assert parameters[-1].grad is None


def test_clipping_against_torch():
    torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
    for max_norm in (0.5, 50.0, 1e9):
        ours = with_gradients()
        theirs = [torch.zeros(p.shape, dtype=torch.float64) for p in ours]
        for p, q in zip(theirs, ours, strict=True):
            p.grad = None if q.grad is None else torch.from_numpy(q.grad.copy())
        length = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
        assert clip_grad_norm(ours, max_norm) == pytest.approx(length, rel=1e-12)
        for p, q in zip(theirs[:-1], ours, strict=False):
            np.testing.assert_allclose(q.grad, p.grad.numpy(), rtol=2e-6 / length)  # torch divides by the norm + 1e-6


def test_a_norm_within_the_limit_leaves_gradients_untouched():
    parameters = with_gradients()
    before = [p.grad.copy() for p in parameters[:-1]]
    length = norm(parameters)
    for max_norm in (length * (1 + 1e-12), 2 * length, math.inf):
        assert clip_grad_norm(parameters, max_norm) == pytest.approx(length, rel=1e-12)
        for p, g in zip(parameters, before, strict=False):
            np.testing.assert_array_equal(p.grad, g)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_no_number_leaves_gradients_untouched_and_shows(number):
    parameters = with_gradients()
    parameters[0].grad[1, 2] = number
    before = [p.grad.copy() for p in parameters[:-1]]
    assert not math.isfinite(clip_grad_norm(parameters, 1.0))
    for p, g in zip(parameters, before, strict=False):
        np.testing.assert_array_equal(p.grad, g)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_within_the_step_is_clipping_before_it(max_norm):
    """Bit for bit; and it leaves the gradients as they are."""
    first, second = (optimizer_of(np.float32) for _ in range(2))
    for optimizer in (first, second):
        give_gradients(optimizer, 0)
    parameters = list(second.parameters.values())
    clip_grad_norm(list(first.parameters.values()), max_norm)
    first.step()
    second.step(clip_scale(grad_norm(parameters), max_norm))
    for name, right in arrays(np.float32, seed=100).items():
        np.testing.assert_array_equal(second.parameters[name].grad, right)
        np.testing.assert_array_equal(second.parameters[name].data, first.parameters[name].data)


@pytest.mark.parametrize(
    "scale",
    [None, "1", lambda: 0.0, math.nan, math.inf, np.ones(2)],
    ids=["None", "text", "function", "nan", "inf", "array"],
)
def test_a_scale_that_is_no_number_changes_nothing(scale):
    """torch's step takes a function or None there; float32(None) would be NaN, in every weight."""
    optimizer = optimizer_of(np.float32)
    give_gradients(optimizer, 0)
    with pytest.raises(ValueError, match="gradient_scale must be a finite number"):
        optimizer.step(scale)
    assert optimizer.steps == 0
    for name, right in arrays(np.float32).items():
        np.testing.assert_array_equal(optimizer.parameters[name].data, right)


def test_clipping_nothing():
    assert clip_grad_norm([Tensor(np.zeros(3), requires_grad=True)], 1.0) == 0
    parameters = with_gradients()
    for p in parameters[:-1]:
        p.grad[...] = 0
    assert clip_grad_norm(parameters, 1.0) == 0
    assert norm(parameters) == 0


def test_parameters_may_come_one_by_one():
    parameters = {name: Tensor(array, requires_grad=True) for name, array in arrays(np.float64).items()}
    for p in parameters.values():
        p.grad = np.full(p.shape, 3.0)
    norm = clip_grad_norm((p for p in parameters.values()), 1.0)
    assert grad_norm(p for p in parameters.values()) == pytest.approx(1.0)
    assert norm == pytest.approx(3 * math.sqrt(sum(p.size for p in parameters.values())))


def test_gradients_that_can_not_be_written_to_or_are_of_another_dtype():
    p = Tensor(np.zeros(3), requires_grad=True)
    p.grad = np.frombuffer(np.ones(3).tobytes())
    kept = p.grad.copy()
    with pytest.raises(ValueError, match="read-only"):
        optim.clip_grad_norm([p], 0.0)
    np.testing.assert_array_equal(p.grad, kept)
    p.grad = np.ones(3, np.int64)
    with pytest.raises(TypeError, match="a parameter of float64 has a gradient of int64"):
        optim.clip_grad_norm([p], 1.0)
    optimizer = AdamW([("p", p)])
    with pytest.raises(ValueError, match="its gradient int64"):
        optimizer.step()
    assert optimizer.steps == 0


def test_what_can_be_clipped():
    p = Tensor([3.0, 4.0], requires_grad=True)
    p.grad = np.array([3.0, 4.0], np.float32)
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="max_norm must be 0 or more"):
            clip_grad_norm([p], wrong)
    assert clip_grad_norm(p, 1.0) == 5.0  # one parameter, as in torch
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-6)
    with pytest.raises(TypeError, match=r"as model\.parameters\(\) gives them, not tuple"):
        clip_grad_norm([("a", p)], 1.0)
