import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, lay_out, leading, seeds, sizes
from helpers.versions import Case
from hypothesis import strategies as st

from npgpt.kernels import KERNELS

VERSIONS = KERNELS["embedding_backward"]


@st.composite
def arguments(draw):
    """Ids of which many are the same; some rows that none names."""
    dtype, shape, C, rows = draw(dtypes), draw(leading), draw(sizes), draw(st.integers(0, 9))
    shape = shape if rows else (*shape, 0)  # an empty table has no row to be named
    ids = np.random.default_rng(draw(seeds)).integers(draw(st.integers(1, max(rows, 1))), size=shape)
    ids = ids.astype(draw(st.sampled_from([np.int64, np.int32, np.uint16])))
    ids = lay_out(ids, "reversed" if draw(st.booleans()) else "contiguous")
    return draw(arrays((*shape, C), dtype)), ids, draw(arrays((rows, C), dtype, layouts=st.just("contiguous")))


def bounds(dy, ids, dweight):
    magnitude = np.abs(dweight)
    VERSIONS["numpy"](np.abs(dy), ids, magnitude)
    return [(ids.size + 1, magnitude)]


def large(rng, dtype):
    dy, dweight = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 60, 200), (50, 200)))
    return dy, rng.integers(40, size=(5, 60)), dweight


CASES = {"embedding_backward": Case(arguments(), large, bounds, writes=(2,))}


@pytest.mark.parametrize("backward", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_that_was_read_three_times_collects_three_times(backward, dtype):
    dy = np.array([[1, 2], [10, 20], [100, 200], [1000, 2000]], dtype)
    dweight = np.ones((4, 2), dtype)
    backward(dy, np.array([2, 0, 2, 2]), dweight)
    np.testing.assert_array_equal(dweight, [[11, 21], [1, 1], [1102, 2203], [1, 1]])


@pytest.mark.parametrize("backward", VERSIONS.values(), ids=VERSIONS)
def test_no_ids(backward):
    dweight = np.ones((2, 3))
    backward(np.ones((0, 3)), np.ones(0, np.int64), dweight)
    np.testing.assert_array_equal(dweight, np.ones((2, 3)))
