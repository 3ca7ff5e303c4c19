"""Tensor: what it refuses, its number formats, and what it says of itself."""

import copy
import operator

import numpy as np
import pytest
from helpers.arrays import leaf

from npgpt import Tensor

# What is refused


@pytest.mark.parametrize("other", [None, "2", 1j, [None], {}, np.array(["a"])], ids=repr)
@pytest.mark.parametrize(
    "operation", [operator.add, operator.sub, operator.mul, operator.truediv], ids=lambda f: f.__name__
)
def test_what_is_not_a_number_is_refused(operation, other):
    for operands in ((leaf([1.0]), other), (other, leaf([1.0]))):
        with pytest.raises(TypeError):
            operation(*operands)


def test_other_wrong_operands():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(TypeError, match="exponent must be a number"):
        x ** Tensor(2.0)
    with pytest.raises(TypeError, match="not with a Tensor"):
        x[Tensor(1.0)]
    for wrong in (np.ones(3), np.float64(2)):
        with pytest.raises(ValueError, match="@ takes matrices"):
            x @ wrong
    for big in (1, 100):  # too large for a sum in Python, too: NumPy's product and the compiled one
        with pytest.raises(ValueError, match=r"don't fit|mismatch"):
            Tensor(np.ones((2 * big, 3 * big))) @ Tensor(np.ones((4 * big, big)))
    with pytest.raises(ValueError, match="broadcast"):
        x + np.ones(4)
    with pytest.raises(TypeError, match="a Tensor is one already"):
        Tensor(x)


# Number formats


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, np.float32),
        (1.5, np.float32),
        ([1, 2.5], np.float32),
        (True, np.float32),
        ([], np.float32),
        (np.arange(3), np.float32),
        (np.float32(1), np.float32),
        (np.float64(1), np.float64),
        (np.ones(2, np.float32), np.float32),
        (np.ones(2), np.float64),
    ],
    ids=repr,
)
def test_dtype_of_a_new_tensor(data, dtype):
    assert Tensor(data).dtype == dtype


@pytest.mark.parametrize("data", [np.ones(2, np.float16), 1j, np.ones(2, complex), "1", None, [None]], ids=repr)
def test_other_dtypes_are_refused(data):
    with pytest.raises(TypeError, match="a Tensor holds float32 or float64"):
        Tensor(data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "other", [2, 2.5, [1, 2], np.float64(3), np.float32(3), np.arange(2), np.ones(2), True], ids=repr
)
def test_a_constant_takes_the_tensors_dtype(dtype, other):
    x = leaf([1.0, 2.0], dtype)
    for result in (x + other, other + x, x * other, other * x, x - other, other - x, x / (x + other), other / x):
        assert result.dtype == dtype
        assert isinstance(result, Tensor)
        result.sum().backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_operation_keeps_the_dtype(dtype):
    x = leaf([[1.0, 2.0], [3.0, 4.0]], dtype)
    results = [x**2, x**0.5, x ** np.float64(2), -x, x.exp(), x.log(), x @ x, x @ np.ones((2, 2))]
    results += [x.sum(), x.sum(axis=0), x.mean(), x.reshape(4), x.T, x[0], x[0, 0], x.detach() * x]
    for result in results:
        assert result.dtype == dtype
        result.sum().backward()
        assert x.grad.dtype == dtype


def test_two_tensors_of_different_dtypes_are_refused():
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul):
        with pytest.raises(TypeError, match="float64 and float32"):
            operation(Tensor(np.ones((2, 2))), Tensor(np.ones((2, 2), np.float32)))


# The rest


def test_what_a_tensor_says_of_itself():
    x = leaf([[1.0, 2.0, 3.0]], np.float32)
    assert (x.shape, x.ndim, x.size, len(x), x.dtype) == ((1, 3), 2, 3, 1, np.float32)
    assert x.numpy() is x.data
    assert repr(x) == "Tensor(array([[1., 2., 3.]], dtype=float32), requires_grad=True)"
    assert repr(Tensor(np.ones(2))) == "Tensor(array([1., 1.]))"
    assert Tensor(2.5).item() == 2.5
    assert [row.data.tolist() for row in x.T] == [[1], [2], [3]]


def test_detach_leaves_the_record():
    x = leaf([1.0])
    y = (x * 3).detach()
    assert not y.requires_grad
    (y * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [3])


def test_empty_tensors():
    x = leaf(np.ones((0, 3)))
    (x * 2).sum().backward()
    assert x.grad.shape == (0, 3)
    assert np.isnan(x.mean().item())


def test_an_array_of_a_tensor_is_its_data():
    """np.asarray(x) would be an array of objects, or lose the record in silence."""
    with pytest.raises(TypeError, match=r"as x\.data"):
        np.asarray(Tensor([1.0]))


def test_a_tensor_of_one_element_is_a_number():
    x = leaf([2.5], np.float32)
    assert (float(x), bool(x), f"{x:.3f}", f"{x}") == (2.5, True, "2.500", str(x))
    assert not Tensor([0.0])
    for wrong in (float, bool):
        with pytest.raises((ValueError, TypeError)):
            wrong(Tensor([1.0, 2.0]))


def test_rows_of_a_tensor():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    for row in x:
        (row * row).sum().backward()
    np.testing.assert_array_equal(x.grad, 2 * x.data)
    with pytest.raises(TypeError, match="unsized"):
        list(Tensor(1.0))


@pytest.mark.parametrize("change", [operator.iadd, operator.isub])
def test_a_parameter_is_not_changed_by_its_name(change):
    """``p -= lr * p.grad`` would leave the model as it was. A sum of losses may grow so."""
    p = leaf([4.0])
    (p * p).backward()
    with pytest.raises(TypeError, match=r"p\.data"):
        change(p, 2.0)
    for before in (p * 1, Tensor([4.0]), leaf([4.0])):
        after = change(before, 2.0)
        assert after is not before
        assert before.data == 4
        assert after.data in (6, 2)


def test_copies_of_leaves_keep_their_gradients_and_results_have_none():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    a, b = copy.deepcopy([x, x])
    assert a is b
    assert a is not x
    assert a.requires_grad
    np.testing.assert_array_equal(a.grad, x.grad)
    a.data[0], a.grad[0] = 9, 9
    assert (x.data[0], x.grad[0]) == (1, 2)
    with pytest.raises(RuntimeError, match=r"only a leaf can be copied"):
        copy.deepcopy(x * 2)


def test_a_parent_must_be_a_tensor():
    with pytest.raises(TypeError, match="a Tensor is expected here, not ndarray"):
        Tensor.from_op(np.ones(1), (np.ones(1),), lambda dy, needs: (dy,))
