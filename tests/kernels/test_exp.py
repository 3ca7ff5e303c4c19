import math

import numba
import numpy as np
import pytest

from npgpt.kernels.exp import exp


@numba.njit
def exp_of_each(x):
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = exp(x[i])
    return y


def test_float32_error_over_all_of_float32():
    """Every 1,009th float32 there is, of both signs, against float64's exp, which is exact by comparison."""
    x = np.arange(0, 2**32, 1009, dtype=np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        exact = np.exp(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    y = exp_of_each(x)
    assert np.all(y[~finite] == np.inf)
    last_place = np.spacing(rounded[finite]).astype(np.float64)
    assert np.max(np.abs(y[finite] - exact[finite]) / last_place) < 1.1  # what kernels/exp.py claims


def test_float32_where_a_result_is_between_the_smallest_and_the_largest():
    """Densely, where half of all float32 numbers are not so near 0 that their exponential is 1."""
    x = np.linspace(-103.9, 88.7, 2_000_003, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    last_place = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(exp_of_each(x) - exact) / last_place) < 1.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype):
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1000, -1000, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    np.testing.assert_array_equal(exp_of_each(x), [1, 1, np.inf, 0, np.nan, np.inf, 0, np.inf, 0])


def test_the_borders_of_float32():
    largest = np.float32(math.log(np.finfo(np.float32).max))
    below, above = np.nextafter(largest, np.float32([0, 100]))
    assert np.isfinite(exp_of_each(np.array([below]))).all()
    assert exp_of_each(np.array([above])) == np.inf
    assert exp_of_each(np.float32([-103.9]))[0] == np.finfo(np.float32).smallest_subnormal


def test_float64_is_the_math_librarys():
    x = np.linspace(-700, 700, 1001)
    np.testing.assert_array_equal(exp_of_each(x), [math.exp(v) for v in x])


def test_outside_of_compiled_code():
    assert exp(1.5) == math.exp(1.5)
