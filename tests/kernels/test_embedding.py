import numpy as np
import pytest
from arrays import arrays, dtypes, lay_out, leading, seeds, sizes
from hypothesis import strategies as st
from versions import Case

from npgpt.kernels import KERNELS

VERSIONS = KERNELS["embedding_backward"]


@st.composite
def arguments(draw):
    """Ids of which many are the same; some rows that none names."""
    dtype, shape, C, rows = draw(dtypes), draw(leading), draw(sizes), draw(st.integers(0, 9))
    shape = shape if rows else (*shape, 0)  # an empty table has no row to be named
    ids = np.random.default_rng(draw(seeds)).integers(draw(st.integers(1, max(rows, 1))), size=shape)
    ids = ids.astype(draw(st.sampled_from([np.int64, np.int32, np.uint16])))
    return draw(arrays((*shape, C), dtype)), lay_out(ids, "reversed" if draw(st.booleans()) else "contiguous"), rows


def bounds(dy, ids, rows):
    return [(ids.size, VERSIONS["numpy"](np.abs(dy), ids, rows))]


def large(rng, dtype):
    return rng.standard_normal((5, 60, 200)).astype(dtype), rng.integers(40, size=(5, 60)), 50


CASES = {"embedding_backward": Case(arguments(), large, bounds)}


@pytest.mark.parametrize("backward", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_that_was_read_three_times_collects_three_times(backward, dtype):
    dy = np.array([[1, 2], [10, 20], [100, 200], [1000, 2000]], dtype)
    dweight = backward(dy, np.array([2, 0, 2, 2]), 4)
    np.testing.assert_array_equal(dweight, [[10, 20], [0, 0], [1101, 2202], [0, 0]])


@pytest.mark.parametrize("backward", VERSIONS.values(), ids=VERSIONS)
def test_no_ids(backward):
    np.testing.assert_array_equal(backward(np.ones((0, 3)), np.ones(0, np.int64), 2), np.zeros((2, 3)))
