import numpy as np
import pytest
from helpers.arrays import VIEWS, arrays, dtypes
from helpers.versions import Case, versions_agree
from hypothesis import given
from hypothesis import strategies as st

from npgpt.kernels import KERNELS

VERSIONS = KERNELS["matmul"]
sides = st.sampled_from([1, 1, 2, 3, 5, 8, 16, 63, 64, 65, 100, 129, 0])


@st.composite
def arguments(draw, sides=sides):
    dtype, (M, K, N) = draw(dtypes), (draw(sides) for _ in range(3))
    # Both plain, or both views of any kind: Numba compiles the blocked version for each pair of layouts.
    layouts = draw(st.sampled_from([st.just("contiguous"), st.sampled_from(VIEWS)]))
    a, b = draw(arrays((M, K), dtype, 1e3, layouts)), draw(arrays((K, N), dtype, 1e3, layouts))
    return a, b, draw(st.none() | arrays((N,), dtype, 1e3))


def bounds(a, b, bias):
    return [(a.shape[1], np.abs(a) @ np.abs(b) + (0 if bias is None else np.abs(bias)))]


def large(rng, dtype):
    """More than one tile of 512 each way."""
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in ((601, 257), (257, 530), (530,)))


CASES = {"matmul": Case(arguments(), large, bounds)}


@given(arguments=arguments(st.sampled_from([65, 65, 66, 70, 70, 80, 100, 129, 129, 200, 520])))
def test_tiles_of_any_layout(arguments):
    """Above 64^3 multiplications, where the product is made by the tiles' own code: transposed, sliced, with bias."""
    versions_agree("matmul", CASES["matmul"], arguments, versions=["numba"])


@pytest.mark.parametrize("multiply", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_numbers_come_out_exactly(multiply, dtype):
    """No rounding, so nothing to allow for: every product counts once, at every place of the blocks and tiles."""
    rng = np.random.default_rng(0)
    for M, K, N in ((1, 1, 1), (3, 4, 5), (65, 257, 66), (520, 9, 515), (1, 300, 1030)):
        a, b, bias = (rng.integers(-9, 10, shape) for shape in ((M, K), (K, N), (N,)))
        arrays = [x.astype(dtype) for x in (a, b, bias)]
        np.testing.assert_array_equal(multiply(*arrays), a @ b + bias)
        np.testing.assert_array_equal(multiply(*arrays[:2]), a @ b)


@pytest.mark.parametrize("multiply", VERSIONS.values(), ids=VERSIONS)
def test_a_sum_over_nothing_is_the_bias(multiply):
    a, b = np.ones((2, 0)), np.ones((0, 3))
    np.testing.assert_array_equal(multiply(a, b), np.zeros((2, 3)))
    np.testing.assert_array_equal(multiply(a, b, np.arange(3.0)), [[0, 1, 2]] * 2)


@pytest.mark.parametrize("multiply", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_added_to_what_is_there(multiply, dtype):
    """A small product, a few rows, several tiles cut by rows, and by columns."""
    rng = np.random.default_rng(0)
    for M, K, N in ((3, 4, 5), (2, 300, 900), (520, 9, 300), (97, 300, 530), (5, 0, 3)):
        a, b, before = (rng.integers(-9, 10, shape) for shape in ((M, K), (K, N), (M, N)))
        c = before.astype(dtype)
        assert multiply(a.astype(dtype), b.astype(dtype), add_to=c) is c
        np.testing.assert_array_equal(c, before + a @ b)


@pytest.mark.parametrize("multiply", [VERSIONS["numba"], VERSIONS["blocked"]])
def test_what_cannot_be_added_to(multiply):
    a, b, c = np.ones((70, 80)), np.ones((80, 90)), np.zeros((70, 90))
    with pytest.raises(ValueError, match="don't fit"):
        multiply(a, b, add_to=np.zeros((90, 70)))
    with pytest.raises(ValueError, match="don't fit"):
        multiply(a, b, np.ones(90), add_to=c)
    with pytest.raises(ValueError, match="contiguous"):
        multiply(a, b, add_to=np.zeros((90, 70)).T)
    with pytest.raises(TypeError, match="dtypes"):
        multiply(a, b, add_to=c.astype(np.float32))
    np.testing.assert_array_equal(c, 0)


@pytest.mark.parametrize(("machine", "warnings"), [("arm64", 0), ("aarch64", 0), ("x86_64", 1)])
def test_flags_that_libraries_leave_set_on_arm_are_no_warnings(python, machine, warnings):
    """Here an overflow stands for them."""
    done = python(
        f"import platform; platform.machine = lambda: {machine!r}\n"
        "import numpy as np\n"
        "from npgpt.kernels.matmul import matmul_numpy\n"
        "assert np.isinf(matmul_numpy(*[np.full((2, 2), 1e30, np.float32)] * 2)).all()"
    )
    assert (done.returncode, done.stderr.count("overflow encountered in matmul")) == (0, warnings), done.stderr
