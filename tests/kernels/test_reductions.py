import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, leading, sizes, values
from helpers.versions import Case
from hypothesis import strategies as st

from npgpt.kernels import KERNELS
from npgpt.kernels.machine.addresses import CHUNK_SIZE


@st.composite
def matrix(draw):
    return (draw(arrays((draw(sizes), draw(sizes)), draw(dtypes))),)


@st.composite
def any_array(draw):
    return (draw(arrays((*draw(leading), draw(sizes)), draw(dtypes))),)


@st.composite
def scaled(draw):
    return draw(values((*draw(leading), draw(sizes)), draw(dtypes))), draw(st.sampled_from([0.0, 0.3, -2.0, 1e3]))


CASES = {
    "sum_rows": Case(
        matrix(),
        lambda rng, dtype: (rng.standard_normal((300, 1201)).astype(dtype),),
        lambda x: [(x.shape[0], np.abs(x).sum(axis=0))],
    ),
    "sum_of_squares": Case(
        any_array(),
        lambda rng, dtype: (rng.standard_normal((3, 70_000)).astype(dtype),),
        lambda x: [(x.size, np.square(x).sum())],
        lists=(0,),
    ),
    "scale": Case(
        scaled(),
        lambda rng, dtype: (rng.standard_normal((3, 70_000)).astype(dtype), 0.3),
        lambda x, factor: [(1, np.abs(x * factor))],
        writes=(0,),
        lists=(0,),
    ),
}


@pytest.mark.parametrize("sum_of_squares", KERNELS["sum_of_squares"].values(), ids=KERNELS["sum_of_squares"])
def test_squares_of_float32_are_added_in_float64(sum_of_squares):
    """4096^2 = 2^24: in float32 the ones that follow would all be lost."""
    x = np.ones(1001, np.float32)
    x[0] = 4096
    total = sum_of_squares([x])
    assert isinstance(total, float)
    assert total == 2**24 + 1000


def test_arrays_of_two_dtypes_are_refused_by_the_compiled_version():
    arrays = [np.ones(3, np.float32), np.ones(2)]
    with pytest.raises(ValueError, match=r"^float64 \(2,\) .* beside float32 \(2,\)$"):
        KERNELS["sum_of_squares"]["numba"](arrays)


@pytest.mark.parametrize("sum_of_squares", KERNELS["sum_of_squares"].values(), ids=KERNELS["sum_of_squares"])
def test_squares_of_several_arrays(sum_of_squares):
    arrays = [
        np.full((2, 3), 2.0),
        np.ones(()),
        np.ones((0, 5)),
        np.full((4, CHUNK_SIZE), 0.5)[:, ::2],
        np.ones(CHUNK_SIZE + 1),
    ]
    assert sum_of_squares(arrays) == 24 + 1 + 0 + CHUNK_SIZE / 2 + CHUNK_SIZE + 1
    assert sum_of_squares([]) == 0


@pytest.mark.parametrize("scale", KERNELS["scale"].values(), ids=KERNELS["scale"])
def test_scaling_several_arrays(scale):
    """Also one that doesn't lie side by side, which must be changed itself and not a copy of it."""
    whole = np.ones((4, 6), np.float32)
    arrays = [np.ones((2, 3), np.float32), whole[:, ::2], np.ones(CHUNK_SIZE + 1, np.float32), np.ones(0, np.float32)]
    scale(arrays, 0.5)
    for x in arrays:
        np.testing.assert_array_equal(x, 0.5)
    np.testing.assert_array_equal(whole[:, 1::2], 1)
    scale([], 0.5)


@pytest.mark.parametrize("sum_rows", KERNELS["sum_rows"].values(), ids=KERNELS["sum_rows"])
def test_sum_rows_by_hand(sum_rows):
    np.testing.assert_array_equal(sum_rows(np.array([[1, 2, 3], [10, 20, 30]], np.float32)), [11, 22, 33])


@pytest.mark.parametrize("sum_rows", KERNELS["sum_rows"].values(), ids=KERNELS["sum_rows"])
def test_many_rows_are_added_up_exactly_enough(sum_rows):
    """A running sum in float32 would be off by 6e-4."""
    found = sum_rows(np.full((65_536, 3), 0.1, np.float32))
    np.testing.assert_allclose(found, 65_536 * np.float64(np.float32(0.1)), rtol=2e-6)
