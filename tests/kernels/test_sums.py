import numpy as np
import pytest
from arrays import arrays, dtypes, leading, sizes
from hypothesis import strategies as st
from versions import Case

from npgpt.kernels import KERNELS


@st.composite
def matrix(draw):
    return (draw(arrays((draw(sizes), draw(sizes)), draw(dtypes))),)


@st.composite
def any_array(draw):
    return (draw(arrays((*draw(leading), draw(sizes)), draw(dtypes))),)


CASES = {
    "sum_rows": Case(
        matrix(),
        lambda rng, dtype: (rng.standard_normal((300, 201)).astype(dtype),),
        lambda x: [(x.shape[0], np.abs(x).sum(axis=0))],
    ),
    "sum_of_squares": Case(
        any_array(),
        lambda rng, dtype: (rng.standard_normal((3, 70_000)).astype(dtype),),
        lambda x: [(x.size, np.square(x).sum())],
    ),
}


@pytest.mark.parametrize("sum_of_squares", KERNELS["sum_of_squares"].values(), ids=KERNELS["sum_of_squares"])
def test_squares_of_float32_are_added_in_float64(sum_of_squares):
    """4096^2 = 2^24: in float32 the ones that follow would all be lost."""
    x = np.ones(1001, np.float32)
    x[0] = 4096
    total = sum_of_squares(x)
    assert isinstance(total, float)
    assert total == 2**24 + 1000


@pytest.mark.parametrize("sum_rows", KERNELS["sum_rows"].values(), ids=KERNELS["sum_rows"])
def test_sum_rows_by_hand(sum_rows):
    np.testing.assert_array_equal(sum_rows(np.array([[1, 2, 3], [10, 20, 30]], np.float32)), [11, 22, 33])
