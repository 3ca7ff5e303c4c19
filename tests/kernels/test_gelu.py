import math

import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, leading, sizes
from helpers.tolerances import rounding
from helpers.versions import Case
from hypothesis import strategies as st

from npgpt.kernels import KERNELS


@st.composite
def arguments(draw, count):
    dtype, shape = draw(dtypes), (*draw(leading), draw(sizes))
    return tuple(draw(arrays(shape, dtype, largest)) for largest in (1e4, 30.0)[:count])


def forward_bounds(x):
    """x times (1 + something), which is near -1 for a negative x: the error is u, and not u times the small sum."""
    return [(1, np.abs(x))]


def tanh_backward_bounds(dy, x):
    """s (1 - s) is off by u and is multiplied by x du/dx; beyond 12 it is exactly 0, in both formats."""
    steep = np.where(np.abs(x) < 12, np.abs(x) * (1.6 + 0.22 * np.square(x)), 0)
    return [(1, np.abs(dy) * (1 + steep))]


def exact_backward_bounds(dy, x):
    """Phi and x phi are at most 1; the exponent x^2 / 2, rounded, costs x^2 / 2 times x phi, also at most 1."""
    return [(1, 2 * np.abs(dy))]


def large(count):
    return lambda rng, dtype: tuple((3 * rng.standard_normal((5, 4096))).astype(dtype)[:, :-7] for _ in range(count))


CASES = {
    "gelu_forward": Case(arguments(1), large(1), forward_bounds),
    "gelu_backward": Case(arguments(2), large(2), exact_backward_bounds),
    "gelu_tanh_forward": Case(arguments(1), large(1), forward_bounds),
    "gelu_tanh_backward": Case(arguments(2), large(2), tanh_backward_bounds),
}

VERSIONS = [(name, version) for name in CASES for version in KERNELS[name]]


def all_magnitudes(dtype):
    """Numbers of every size that there is, of both signs, to the largest finite one."""
    sizes = np.exp(np.linspace(math.log(np.finfo(dtype).tiny), math.log(np.finfo(dtype).max), 5000)).astype(dtype)
    sizes = np.append(sizes[np.isfinite(sizes)], np.finfo(dtype).max)
    return np.concatenate([-sizes, sizes, np.zeros(1, dtype)])


@pytest.mark.filterwarnings("ignore:overflow")  # of x * x; the limit of what follows is right
@pytest.mark.parametrize(("name", "version"), VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_finite_number_has_a_finite_result(name, version, dtype):
    x = all_magnitudes(dtype)
    kernel = KERNELS[name][version]
    forward = "forward" in name
    y = kernel(x) if forward else kernel(np.ones_like(x), x)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(y[x > 15], x[x > 15] if forward else 1)
    np.testing.assert_array_equal(y[x < -40], 0)


@pytest.mark.parametrize("version", ["numpy", "numba"])
def test_against_the_formulas_by_the_math_module(version):
    x = np.linspace(-6, 6, 241)
    right = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    # |y| <= 6, from a handful of operations
    np.testing.assert_allclose(KERNELS["gelu_forward"][version](x), right, rtol=0, atol=1e-14)
    right = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    np.testing.assert_allclose(KERNELS["gelu_tanh_forward"][version](x), right, rtol=0, atol=1e-14)


def test_the_compiled_slope_keeps_its_digits_where_it_is_nearly_1():
    """From 1 - s, rounded, times x u', the error would be up to 35 u here."""
    x = np.linspace(3, 8, 5001, dtype=np.float32)
    dy = np.ones_like(x)
    exact = KERNELS["gelu_tanh_backward"]["numpy"](dy.astype(np.float64), x.astype(np.float64))
    found = KERNELS["gelu_tanh_backward"]["numba"](dy, x)
    np.testing.assert_allclose(found, exact, rtol=rounding(np.float32) / 4)  # of a result near 1, some 6 u
