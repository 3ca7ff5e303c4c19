"""Tensors in files: whatever way their numbers come in, they are the same numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.checkpoints.shared import lazy_tensor as stored
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, equal, lazy_array

shapes = st.one_of(st.just(()), st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple))


def of(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@given(shapes, st.integers(1, 9))
def test_chunks_are_the_whole(shape, piece):
    array = of(shape)
    tensor = lazy_array(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "CHUNK", piece)
        out = np.full(shape, np.nan, np.float64)
        assert tensor.copy_to(out)
        parts = [numbers.reshape(-1) for numbers in tensor.iter_flat()]
        assert all(part.size <= max(piece, array[:1].size if array.ndim else 1) for part in parts)
    np.testing.assert_array_equal(out, array)
    np.testing.assert_array_equal(np.concatenate([np.empty(0), *parts]), array.reshape(-1))
    assert tensor.numpy().shape == tensor.shape == shape
    assert (tensor.size, tensor.dtype, tensor.is_float) == (array.size, "F32", True)


@pytest.mark.parametrize("piece", [1, 4, 100])
def test_transposed(monkeypatch, piece):
    monkeypatch.setattr(stored, "CHUNK", piece)
    array = of((3, 5))
    tensor = lazy_array(array).T
    out = np.empty((5, 3), np.float32)
    tensor.copy_to(out)
    np.testing.assert_array_equal(out, array.T)
    np.testing.assert_array_equal(tensor.numpy(), array.T)
    np.testing.assert_array_equal(np.concatenate([x.reshape(-1) for x in tensor.iter_flat()]), array.T.reshape(-1))
    np.testing.assert_array_equal(tensor.T.numpy(), array)
    assert (tensor.shape, tensor.file_shape) == ((5, 3), (3, 5))
    assert not tensor.numpy().flags.writeable
    assert array.flags.writeable
    for wrong in ((3, 5), (15,), (5, 4)):
        with pytest.raises(ValueError, match="is not the shape"):
            tensor.copy_to(np.empty(wrong))
    with pytest.raises(ValueError, match="a matrix was expected"):
        _ = lazy_array(of(3)).T


def test_copying_reads_a_few_rows_at_a_time():
    asked = []
    array = np.zeros((5, 1 << 19), np.float32)
    tensor = LazyTensor(array.shape, "F32", lambda first, last: (asked.append((first, last)), array[first:last])[1])
    tensor.copy_to(np.empty(array.shape, np.float32))
    assert asked == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_copying_finds_what_is_not_finite(monkeypatch, bad):
    """Also what the conversion to the target's dtype makes infinite; but not finite elements whose sum overflows."""
    monkeypatch.setattr(stored, "CHUNK", 4)
    array = np.full((5, 3), 3e38)
    out = np.empty((5, 3), np.float32)
    with np.errstate(all="raise"):
        assert lazy_array(array).copy_to(out)
        assert lazy_array(np.array([3e38, -3e38, 3e38])).copy_to(out[0])
        array[3, 1] = bad
        assert not lazy_array(array).copy_to(out)
        assert not lazy_array(array).T.copy_to(out.reshape(3, 5))


def test_equal(monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", 12)
    a = of((4, 6))
    assert not equal(lazy_array(a), lazy_array(a[:2]))
    assert equal(lazy_array(a), lazy_array(a.copy()))
    assert equal(lazy_array(a), lazy_array(a.T.copy()).T)
    assert not equal(lazy_array(a), lazy_array(a + 1e-6))
    assert not equal(lazy_array(a), lazy_array(a.reshape(6, 4)))
    assert equal(lazy_array(np.empty((2**40, 0))), lazy_array(np.empty((2**40, 0))))
