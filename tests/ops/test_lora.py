import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import leading, normal, positive_sizes, small_sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt import Tensor, kernels, ops


@pytest.mark.parametrize("case", stored_cases("lora"))
def test_stored(case):
    check_stored(case)


@requires_torch
@settings(max_examples=30)
@given(st.data(), leading, small_sizes, positive_sizes, small_sizes)
def test_against_torch(data, rows, I, r, O):
    shapes = {"y": (*rows, O), "x": (*rows, I), "A": (I, r), "B": (r, O)}
    inputs = {name: data.draw(normal(shape)) for name, shape in shapes.items()}
    options = {
        "scale": data.draw(st.sampled_from([0.25, 1.0, 2.0])),
        "p": data.draw(st.sampled_from([0.0, 0.5])),
        "seed": 3,
    }
    # Two products after one another: the first one's rounding is multiplied by the second's factors.
    size = np.abs(inputs["x"]).sum(axis=-1).max(initial=1) * np.abs(inputs["A"]).max(initial=1)
    check("lora", inputs, options, max(1.0, float(size) * np.abs(inputs["B"]).max(initial=1)))


def example(needs=(True,) * 4):
    rng = np.random.default_rng(0)
    shapes = (2, 3, 5), (2, 3, 4), (4, 2), (2, 5)
    return [Tensor(rng.standard_normal(shape), requires_grad=need) for shape, need in zip(shapes, needs, strict=True)]


def test_it_is_the_layers_after_one_another():
    """Dropout, two linear layers, a factor, a sum: with the same masks and the same gradients."""
    y, x, A, B = parts = example()
    for scale, p in ((0.5, 0.0), (2.0, 0.4)):
        ops.lora(y, x, A, B, scale, p, seed=5).backward(np.arange(30.0).reshape(2, 3, 5))
        fused = [t.grad for t in parts]
        for t in parts:
            t.grad = None
        slow = y + ops.linear(ops.linear(ops.dropout(x, p, 5), A), B) * scale
        slow.backward(np.arange(30.0).reshape(2, 3, 5))
        for ours, t in zip(fused, parts, strict=True):
            np.testing.assert_allclose(ours, t.grad, rtol=1e-13, atol=1e-12)
            t.grad = None


@pytest.mark.parametrize("needed", range(4))
def test_only_the_gradients_that_are_wanted_cost_a_product(needed, monkeypatch):
    parts = example([i == needed for i in range(4)])
    z, products, matmul = ops.lora(*parts, 1.0), [], kernels.matmul
    monkeypatch.setattr(kernels, "matmul", lambda *a, **k: products.append(a) or matmul(*a, **k))
    z.backward(np.ones(z.shape))
    assert [t.grad is not None for t in parts] == [i == needed for i in range(4)]
    assert len(products) == (0, 2, 2, 1)[needed]


@pytest.mark.parametrize("shapes", [
    ((3, 5), (3, 4), (4, 2), (3, 5)), ((3, 6), (3, 4), (4, 2), (2, 5)), ((2, 5), (3, 4), (4, 2), (2, 5)),
    ((3, 5), (3, 3), (4, 2), (2, 5)),
])  # fmt: skip
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="lora: y "):
        ops.lora(*(Tensor(np.ones(shape)) for shape in shapes), 1.0)
