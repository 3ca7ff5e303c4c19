"""The check of gradients: right ones pass, wrong ones are found with their place."""

import contextlib
import itertools
import math

import numpy as np
import pytest

from npgpt import ops
from npgpt.checking.central_differences import EACH_ELEMENT_UP_TO
from npgpt.gradcheck import gradcheck
from npgpt.tensor import Tensor


def values(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)


def square(spoil=lambda dx: dx):
    """x -> x^2, whose gradient is what ``spoil`` makes of the right one."""
    return lambda x: Tensor.from_op(x.data**2, (x,), lambda dy, needs: (spoil(2 * x.data * dy),))


def changed(index, value):
    """A gradient of which one element is wrong."""

    def spoil(dx):
        dx[index] = value
        return dx

    return spoil


SMALL, LARGE = (3, 4), (30, 40)
sizes = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])


def test_small_and_large_shapes_are_on_both_sides_of_the_limit():
    assert np.prod(SMALL) <= EACH_ELEMENT_UP_TO < np.prod(LARGE)


# Right gradients


@sizes
@pytest.mark.parametrize(
    "f",
    [
        square(),
        lambda x: (x * x).sum(),
        lambda x: x,
        lambda x: x.T @ x,
        lambda x: ops.softmax(x @ x.T),
        lambda x: 1e-9 * x * x,
        lambda x: 1e9 * x * x,
        lambda x: x * x + 1e6,
    ],
)
def test_right_gradients_pass(f, shape):
    report = gradcheck(f, [values(*shape)])
    assert report.ok, report
    assert report
    assert report.error < 1e-8
    assert (type(report.inputs[0].ok), type(report.inputs[0].error)) == (bool, float)
    assert str(report).startswith("ok     dx0")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (EACH_ELEMENT_UP_TO,), (EACH_ELEMENT_UP_TO + 1,)])
def test_inputs_of_any_shape(shape):
    assert gradcheck(square(), [values(*shape)]).ok
    if math.prod(shape):
        wrong = gradcheck(square(lambda dx: 1.001 * dx), [values(*shape)])
        assert not wrong.ok
        assert not wrong  # as in "assert gradcheck(f, inputs)"


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_inputs_of_any_size(scale):
    assert gradcheck(square(), [values(*SMALL) * scale]).ok
    assert not gradcheck(square(lambda dx: 1.001 * dx), [values(*SMALL) * scale]).ok


def test_inputs_are_reported_by_name():
    x, weight, bias = values(2, 3, 4), values(4, 5), values(5)
    report = gradcheck(ops.linear, [x, weight, bias], names=["x", "weight", "bias"])
    assert report.ok
    assert [(c.name, c.shape) for c in report.inputs] == [("x", (2, 3, 4)), ("weight", (4, 5)), ("bias", (5,))]


def test_an_input_that_does_not_matter_needs_no_gradient():
    report = gradcheck(lambda x, unused: x * 2, [values(3), values(2)])
    assert report.ok
    assert report.inputs[1].by_hand is None
    assert "dx1" in str(report)
    assert "by hand none, numerically 0" in str(report)


def test_a_tensor_that_is_two_inputs():
    x = Tensor(values(3, 3), requires_grad=True)
    assert gradcheck(lambda a, b: a @ b, [x, x]).ok


def test_the_values_reported_are_those_of_backward():
    x = values(2, 3)
    report = gradcheck(lambda x: x.exp(), [x])
    leaf = Tensor(x, requires_grad=True)
    leaf.exp().backward(report.dy)
    (found,) = report.inputs
    assert found.by_hand == leaf.grad[found.index]
    assert abs(found.numerical - found.by_hand) < 1e-9
    assert np.abs(report.dy).min() >= 0.5


def test_a_report_is_the_same_every_time():
    x = values(*LARGE)
    wrong = square(changed((3, 4), 0))
    assert str(gradcheck(wrong, [x])) == str(gradcheck(wrong, [x]))
    assert gradcheck(wrong, [x], seed=1).dy[0, 0] != gradcheck(wrong, [x]).dy[0, 0]


# Wrong gradients


@sizes
@pytest.mark.parametrize(
    "spoil",
    [
        lambda dx: 2 * dx,
        lambda dx: (1 + 1e-6) * dx,
        lambda dx: -dx,
        lambda dx: 0 * dx,
        lambda dx: dx + 1e-3,
        lambda dx: dx[::-1].copy(),
        lambda dx: dx.reshape(dx.shape[::-1]).T.copy(),
    ],
    ids=["factor", "nearly right", "sign", "zero", "offset", "reversed", "transposed"],
)
def test_wrong_gradients_are_found(spoil, shape):
    report = gradcheck(square(spoil), [values(*shape)])
    assert not report.ok
    (found,) = report.inputs
    assert not found.ok
    x = Tensor(values(*shape), requires_grad=True)
    square(spoil)(x).backward(report.dy)
    right = 2 * x.data * report.dy
    assert found.by_hand == x.grad[found.index]  # the place is one where the gradient is wrong
    assert found.numerical == pytest.approx(right[found.index])
    assert found.by_hand != right[found.index]
    assert str(report).startswith("WRONG  dx0")


@sizes
def test_a_transposed_gradient_of_a_square_matrix_is_wrong(shape):
    n = shape[1]

    def product(x, w):  # dy @ w.T is right
        return Tensor.from_op(x.data @ w.data, (x, w), lambda dy, needs: (dy @ w.data, x.data.T @ dy))

    report = gradcheck(product, [values(n, n), values(n, n, seed=1)])
    assert [c.ok for c in report.inputs] == [False, True]


@sizes
@pytest.mark.parametrize("value", [0, np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("index", [(0, 0), (-1, -1), (1, 2)])
def test_a_single_wrong_element_is_found_and_named(shape, value, index):
    report = gradcheck(square(changed(index, value)), [values(*shape)])
    (found,) = report.inputs
    assert not report.ok
    assert found.index == tuple(i % n for i, n in zip(index, shape, strict=True))
    assert np.array_equal(found.by_hand, value, equal_nan=True)
    assert found.error > 1e-3
    assert f"dx0[{found.index[0]}, {found.index[1]}]: by hand" in str(report)


def test_many_errors_that_rounding_hides_one_by_one_are_found_along_a_direction():

    def mean(x):
        return Tensor.from_op(
            np.asarray(x.data.mean() + 10), (x,), lambda dy, needs: (dy * (1 + 1e-4 * np.sign(x.data)) / x.size,)
        )

    x = np.random.default_rng(0).uniform(-1, 1, (100, 100))
    (found,) = gradcheck(mean, [x]).inputs
    assert not found.ok
    assert found.index is None
    assert "dx0: by hand" in str(found)


def test_two_errors_in_a_large_array_do_not_cancel():
    def spoil(dx):
        dx[3, 4] += 1
        dx[20, 1] -= 1
        return dx

    for seed in range(10):
        (found,) = gradcheck(square(spoil), [values(*LARGE)], seed=seed).inputs
        assert found.index in [(3, 4), (20, 1)]


@sizes
def test_a_missing_gradient_is_wrong(shape):
    x = values(*shape)

    def half(a, b):
        return Tensor.from_op(a.data * b.data, (a, b), lambda dy, needs: (dy * b.data, None))

    report = gradcheck(half, [x, x + 3])
    assert [c.ok for c in report.inputs] == [True, False]
    assert report.inputs[1].by_hand is None
    assert "by hand none, numerically" in str(report)
    assert not gradcheck(lambda x: Tensor(x.data * 2), [x]).ok  # a result without a backward pass


def test_a_backward_pass_that_forgets_dy_is_wrong():
    def total(x):
        return Tensor.from_op(np.asarray(x.data.sum()), (x,), lambda dy, needs: (np.ones_like(x.data),))

    assert not gradcheck(total, [values(3)]).ok


def test_a_slope_that_is_not_finite_is_wrong():
    def step(x):
        return Tensor.from_op(np.where(x.data > 1, np.nan, x.data), (x,), lambda dy, needs: (dy,))

    with np.errstate(all="ignore"):
        (found,) = gradcheck(step, [np.array([1.0])]).inputs
    assert (found.ok, found.error) == (False, math.inf)


def test_the_tolerance_decides_what_is_right():
    assert gradcheck(square(lambda dx: 1.001 * dx), [values(3)], tolerance=0.01).ok
    assert not gradcheck(square(), [values(3)], tolerance=0).ok


def test_exceptions_of_backward_pass_through():
    with pytest.raises(RuntimeError, match=r"returned a gradient \(4, 3\)"):
        gradcheck(square(np.transpose), [values(3, 4)])


# What can't be checked


def changes_its_input(x):
    y = x * 2
    x.data += 1
    return y


def changes_its_input_on_the_way_back(x):
    def backward(dy, needs):
        x.data[...] = 0
        return (2 * dy,)

    return Tensor.from_op(2 * x.data, (x,), backward)


def fresh_dropout():
    seeds = iter(range(100))
    return lambda x: ops.dropout(x, 0.5, next(seeds))


@pytest.mark.parametrize(
    ("f", "inputs", "error", "words"),
    [
        (square(), [], ValueError, "at least one input"),
        (square(), [np.ones(3, np.float32)], TypeError, "input 0 is float32"),
        (square(), [np.arange(3)], TypeError, "input 0 is int64"),
        (square(), [None], TypeError, "input 0 is object"),
        (square(), [Tensor(np.ones(3, np.float32), requires_grad=True)], TypeError, "input 0 is float32"),
        (square(), [Tensor(np.ones(3))], ValueError, "input 0 .* must be a leaf"),
        (square(), [Tensor(np.ones(3), requires_grad=True) * 2], ValueError, "input 0 .* must be a leaf"),
        (lambda x: x.data, [np.ones(3)], TypeError, "must give a Tensor of float64, not ndarray$"),
        (lambda x: None, [np.ones(3)], TypeError, "must give a Tensor of float64, not NoneType$"),
        (lambda x: Tensor(x.data.astype(np.float32)), [np.ones(3)], TypeError, "not one of float32$"),
        (lambda x: x.log(), [np.zeros(3)], ValueError, "not finite"),
        (fresh_dropout(), [np.ones(30)], ValueError, "fix its seed"),
        (changes_its_input, [np.ones(3)], ValueError, "changes input 0"),
        (changes_its_input_on_the_way_back, [np.ones(3)], ValueError, "changes input 0"),
    ],
)
def test_a_function_that_gradcheck_cannot_check_is_refused(f, inputs, error, words):
    with np.errstate(all="ignore"), pytest.raises(error, match=words):
        gradcheck(f, inputs)


def test_names_must_be_as_many_as_inputs():
    with pytest.raises(ValueError, match="1 names for 2 inputs"):
        gradcheck(lambda a, b: a + b, [values(2), values(2)], names=["a"])


def fails_later():
    calls = itertools.count()
    return lambda x: x * x if next(calls) < 3 else x @ None


@sizes
@pytest.mark.parametrize("f", [square(), square(changed((1, 2), np.nan)), changes_its_input, fails_later()])
def test_inputs_are_left_as_they_were(f, shape):
    array, parameter = values(*shape), Tensor(values(*shape, seed=1), requires_grad=True)
    data, grad = parameter.data, np.full(shape, 7.0)
    parameter.grad = grad
    before = array.copy(), data.copy()
    with contextlib.suppress(ValueError, TypeError):
        gradcheck(lambda x, parameter: f(x) + f(parameter), [array, parameter])
    assert parameter.data is data
    assert parameter.grad is grad
    np.testing.assert_array_equal(array, before[0])
    np.testing.assert_array_equal(data, before[1])
    assert (grad == 7).all()


def test_inputs_that_cannot_be_written_to():
    x = values(2, 3)
    x.flags.writeable = False
    assert gradcheck(lambda a, b: a * b, [x, Tensor(x, requires_grad=True)]).ok


def test_public_names(python):
    ended = python(
        "import npgpt\n"
        "from npgpt.gradcheck import Comparison, Report, gradcheck\n"
        "from npgpt import gradcheck as module\n"
        "assert module.gradcheck is gradcheck is npgpt.gradcheck.gradcheck and npgpt.gradcheck is module\n"
        "try: module.other\n"
        "except AttributeError as error: print(error)\n"
    )
    assert ended.stdout == "module 'npgpt.gradcheck' has no attribute 'other'\n", ended.stderr


def test_a_backward_function_that_draws_anew():
    rng = np.random.default_rng(0)

    def drop(x):
        mask = rng.random(x.shape) < 0.5 if not seen else seen[0]
        seen.append(mask)
        return Tensor.from_op(x.data * mask, (x,), lambda dy, needs: (dy * (rng.random(x.shape) < 0.5),))

    seen = []
    with pytest.raises(ValueError, match=r"gives another gradient of input 0 when it is repeated \(a new mask\?\)"):
        gradcheck(drop, [np.ones(50)])


def test_an_array_that_a_backward_function_keeps_is_no_gradient():
    """The engine may write to what is returned."""
    table, buffer = np.array([1.0, 2.0]), np.empty(2)

    def fills_a_buffer(x):
        return Tensor.from_op(3 * x.data, (x,), lambda dy, needs: (np.multiply(dy, 3, out=buffer),))

    def gives_away_its_table(x):
        y = (table * x.data).sum()
        return Tensor.from_op(y, (x,), lambda dy, needs: (np.multiply(table, dy, out=table),))

    for function in (fills_a_buffer, gives_away_its_table):
        with pytest.raises(ValueError, match="gradient of input 0 is an array that the backward pass keeps"):
            gradcheck(function, [np.array([3.0, 4.0])])


def test_a_function_that_adds_in_place():
    def f(x):
        x += x * x
        return x

    assert gradcheck(f, [np.array([1.0, 2.0])])


def test_an_input_that_is_given_away_as_a_gradient():
    with pytest.raises(ValueError, match="changes input 0"):
        gradcheck(lambda x: Tensor.from_op(x.data.copy(), (x,), lambda dy, needs: (x.data,)), [np.ones(2)])
