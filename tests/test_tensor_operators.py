"""Tensor's operators against torch and against central differences.

The functions are written in syntax that our tensors and torch's have in common.
"""

import math
import operator

import numpy as np
import pytest
from helpers.against_torch import requires_torch
from helpers.arrays import lay_out, layouts, leaf, seeds, shapes
from helpers.tolerances import CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, FLOAT64_GRADIENT, FLOAT64_VALUE, rounding
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from npgpt import Tensor
from npgpt.tensor import unbroadcast


def same_as_torch(function, *arrays):
    import torch

    ours, theirs = [leaf(x) for x in arrays], [torch.tensor(x, requires_grad=True) for x in arrays]
    y, right = function(*ours), function(*theirs)
    np.testing.assert_allclose(y.data, right.detach().numpy(), rtol=FLOAT64_VALUE, atol=FLOAT64_VALUE)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(dy)
    right.backward(torch.tensor(dy))
    for x, expected in zip(ours, theirs, strict=True):
        assert x.grad.shape == x.shape
        np.testing.assert_allclose(x.grad, expected.grad.numpy(), rtol=FLOAT64_GRADIENT, atol=FLOAT64_GRADIENT)


def same_as_central_differences(function, *arrays):
    """Every derivative of a weighted sum of the results."""
    tensors = [leaf(x) for x in arrays]
    y = function(*tensors)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(dy)
    h = CENTRAL_DIFFERENCE_STEP
    for tensor in tensors:
        for i in np.ndindex(tensor.shape):
            sums = []
            for step in (h, -h):
                before = tensor.data[i]
                tensor.data[i] = before + step
                sums.append((function(*tensors).data * dy).sum())
                tensor.data[i] = before
            assert abs((sums[0] - sums[1]) / (2 * h) - tensor.grad[i]) < CENTRAL_DIFFERENCE, f"{tensor.shape}, {i}"


def numbers(seed, shape):
    """From 0.5 to 2, of both signs: nowhere near a pole."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)


two = pytest.mark.parametrize(
    "function",
    [operator.add, operator.sub, operator.mul, operator.truediv],
    ids=lambda f: f.__name__,
)
broadcastable = mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3).map(
    lambda s: s.input_shapes
)


@two
@given(broadcastable, seeds)
@example(((3, 1), (2,)), 0)
@example(((3, 1), (0,)), 0)
@example(((), (2, 1, 2)), 0)
@example(((2, 1, 3), (2, 1)), 0)
def test_broadcasting_against_central_differences(function, shapes, seed):
    same_as_central_differences(function, *(numbers(seed + i, shape) for i, shape in enumerate(shapes)))


ONE = {
    "-x": lambda x: -x,
    "3 + x": lambda x: 3 + x,
    "x + 3": lambda x: x + 3,
    "3 - x": lambda x: 3 - x,
    "x - 3": lambda x: x - 3,
    "3 * x": lambda x: 3 * x,
    "3 / x": lambda x: 3 / x,
    "x / 3": lambda x: x / 3,
    "x ** 3": lambda x: x**3,
    "x ** 2.5": lambda x: (x * x) ** 2.5,
    "x ** -1": lambda x: x**-1,
    "x ** 0": lambda x: x**0,
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x).log(),
    "x * x": lambda x: x * x,
    "sum": lambda x: x.sum(),
    "sum, axis 0": lambda x: x.sum(axis=0),
    "sum, last axis kept": lambda x: x.sum(axis=-1, keepdims=True),
    "sum, axes 0 and -1": lambda x: x.sum(axis=(0, -1)),
    "mean": lambda x: x.mean(),
    "mean, axis 1": lambda x: x.mean(axis=1),
    "mean, axis 1 kept": lambda x: x.mean(axis=1, keepdims=True),
    "reshape": lambda x: x.reshape(4, 6) * x.reshape((4, -1)),
    "transpose": lambda x: x.reshape(6, 4).T,
    "x[1]": lambda x: x[1],
    "x[..., 1:, ::2]": lambda x: x[..., 1:, ::2],
    "x[None, 0, :, -1]": lambda x: x[None, 0, :, -1],
    "x[:, 1, 1] + x[:, 2, 1]": lambda x: x[:, 1, 1] + x[:, 2, 1],
    "repeated rows": lambda x: x[[0, 1, 0, 0]],
    "repeated pairs": lambda x: x[[0, 0, 1], [2, 2, 1]],
    "mask": lambda x: x[np.arange(24).reshape(2, 3, 4) % 3 == 0],
}
one = pytest.mark.parametrize("name", ONE)


@one
@requires_torch
@given(seeds)
def test_one_operand_against_torch(name, seed):
    same_as_torch(ONE[name], numbers(seed, (2, 3, 4)))


ANY_SHAPE = ["-x", "3 - x", "3 / x", "x / 3", "x ** 3", "x ** 0", "exp", "log", "x * x", "sum", "mean"]
ONE_AXIS = {
    "sum": lambda x, axis: x.sum(axis=axis),
    "sum kept": lambda x, axis: x.sum(axis=axis, keepdims=True),
    "mean": lambda x, axis: x.mean(axis=axis),
    "mean kept": lambda x, axis: x.mean(axis=axis, keepdims=True),
    "every second": lambda x, axis: x[(slice(None),) * axis + (slice(1, None, 2),)],
    "flat and back": lambda x, axis: x.reshape(math.prod(x.shape)).reshape(tuple(x.shape)),
}


@pytest.mark.parametrize("name", ANY_SHAPE)
@requires_torch
@given(shapes, seeds)
def test_any_shape_against_torch(name, shape, seed):
    same_as_torch(ONE[name], numbers(seed, shape))


@pytest.mark.parametrize("name", ONE_AXIS)
@requires_torch
@given(st.data(), shapes.filter(len), seeds)
def test_one_axis_of_any_shape_against_torch(name, data, shape, seed):
    axis = data.draw(st.integers(0, len(shape) - 1))
    same_as_torch(lambda x: ONE_AXIS[name](x, axis), numbers(seed, shape))


@given(st.data(), st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3).map(tuple), seeds)
def test_any_order_of_axes_and_any_view(data, shape, seed):
    """What an operation gets may be reversed, a slice or transposed; its numbers count and not its place in memory."""
    x = numbers(seed, shape)
    view = lay_out(x, data.draw(layouts)) if shape else x
    axes = data.draw(st.permutations(range(len(shape))))
    results = []
    for tensor in (leaf(x), Tensor(view, requires_grad=True)):
        y = (tensor * 3 + tensor.exp()).transpose(*axes)
        (y * y).sum().backward()
        results.append((y.data, tensor.grad))
    for one, other in zip(*results, strict=True):  # NumPy's exp may round a view's numbers in another way
        np.testing.assert_allclose(one, other, rtol=FLOAT64_VALUE)


special_numbers = st.lists(
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.5, -2.0, 1e30, -1e30, 1e-30]), min_size=2, max_size=2
)


@two
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@requires_torch
@given(special_numbers, special_numbers)
def test_not_a_number_comes_out(function, dtype, a, b):
    """Where torch has NaN or infinity, and nowhere else."""
    import torch

    assume(not (function is operator.truediv and 0 in b))  # of x / 0 torch's own gradient depends on its version
    ours = [leaf(x, dtype) for x in (a, b)]
    theirs = [torch.tensor(np.array(x, dtype), requires_grad=True) for x in (a, b)]
    with np.errstate(all="ignore"):
        results = [function(*ours), *ours]
        results[0].backward(np.ones(2))
        right = [function(*theirs), *theirs]
        right[0].backward(torch.ones(2, dtype=right[0].dtype))
    for i, (x, expected) in enumerate(zip(results, right, strict=True)):
        x, expected = (x.data, expected.detach().numpy()) if i == 0 else (x.grad, expected.grad.numpy())
        np.testing.assert_allclose(x, expected, rtol=rounding(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_slope_of_a_quotient_squares_nothing(dtype, size):
    """-a / b^2, where float32 can hold b and the slope, and b^2 is 0 or infinite."""
    a, b = leaf([0.0, size], dtype), leaf([size, size], dtype)
    (a / b).sum().backward()
    np.testing.assert_allclose(b.grad, [0, -1 / size], rtol=rounding(dtype))


@one
def test_one_operand_against_central_differences(name):
    same_as_central_differences(ONE[name], numbers(1, (2, 3, 4)))


@pytest.mark.parametrize(("exponent", "slope"), [(0, 0), (1, 1), (2, 0), (3.5, 0)])
def test_powers_of_zero(exponent, slope):
    """n x^(n - 1), which for n = 0 would be 0 / 0."""
    x = leaf([0.0])
    (x**exponent).sum().backward()
    np.testing.assert_array_equal(x.grad, [slope])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3), (3, 4)),
        ((1, 1), (1, 1)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)),
        ((2, 3), (5, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((0, 3), (3, 4)),
        ((2, 0), (0, 4)),
        ((5, 2, 0), (0, 4)),
        ((5, 0, 3), (3, 4)),
        ((0, 2, 3), (1, 3, 4)),
        ((5, 2, 3), (3, 0)),
    ],
)
def test_matrix_products(a, b):
    same_as_central_differences(operator.matmul, numbers(0, a), numbers(1, b))
    left, right = numbers(0, a), numbers(1, b)
    np.testing.assert_allclose((left @ Tensor(right)).data, left @ right, rtol=FLOAT64_VALUE, atol=FLOAT64_VALUE)


@requires_torch
@given(st.sampled_from([((70, 65), (65, 80)), ((3, 40, 65), (65, 80)), ((2, 70, 65), (2, 65, 70))]), seeds)
def test_large_matrix_products_against_torch(shapes, seed):
    """Through the compiled product, with transposed views in the backward pass."""
    same_as_torch(operator.matmul, *(numbers(seed + i, shape) for i, shape in enumerate(shapes)))


@given(st.permutations(range(4)), seeds)
def test_axes_in_any_order(axes, seed):
    x = leaf(numbers(seed, (1, 2, 3, 4)))
    for y in (x.transpose(*axes), x.transpose(axes), x.transpose(*(a - 4 for a in axes))):
        np.testing.assert_array_equal(y.data, x.data.transpose(axes))
        dy = numbers(seed + 1, y.shape)
        x.grad = None
        y.backward(dy)
        for i in np.ndindex(x.shape):
            assert x.grad[i] == dy[tuple(i[a] for a in axes)]


@given(mutually_broadcastable_shapes(num_shapes=1, max_dims=4, min_side=0, max_side=3, base_shape=(2, 3, 1)))
def test_unbroadcast_is_the_transpose_of_broadcasting(shapes):
    """<broadcast(x), y> = <x, unbroadcast(y)> for all x and y."""
    (shape,), wide = shapes
    x, y = numbers(0, shape), numbers(1, wide)
    back = unbroadcast(y, shape)
    assert back.shape == shape
    np.testing.assert_allclose(
        (np.broadcast_to(x, wide) * y).sum(), (x * back).sum(), rtol=0, atol=1e-12
    )  # 4 x 3^4 terms


@pytest.mark.parametrize("axes", [(0, 1, 5), (3, 4, 5), (0, 1), (0, 0, 1), ((),)])
def test_axes_that_can_not_be(axes):
    with pytest.raises(ValueError, match=r"ax[ei]s"):  # NumPy's words
        Tensor(np.zeros((2, 3, 4))).transpose(*axes)


@pytest.mark.parametrize("exponent", [np.float32(2), np.int64(2), 2])
def test_exponents_of_numpy(exponent):
    x = Tensor([3.0], requires_grad=True)
    (x**exponent).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (np.float32, [6.0])


def test_an_array_of_indices_may_be_filled_anew_before_the_backward_pass():
    x, index = Tensor([1.0, 2.0, 3.0], requires_grad=True), np.array([0, 2])
    y = x[index].sum()
    index[:] = 1
    y.backward()
    assert x.grad.tolist() == [1.0, 0.0, 1.0]
