import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import leading, normal, seeds
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("embedding"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(
    st.tuples(st.integers(1, 9), st.integers(0, 70)).flatmap(normal),
    leading,
    seeds,
    st.sampled_from([np.int64, np.int32, np.uint16]),
)
def test_against_torch(weight, shape, seed, dtype):
    """Few rows and many ids, so most are repeated."""
    ids = np.random.default_rng(seed).integers(len(weight), size=shape).astype(dtype)
    check("embedding", {"weight": weight}, {"ids": ids})


def test_lists_and_no_ids_at_all():
    weight = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    np.testing.assert_array_equal(ops.embedding([2, 0], weight).data, [[4, 5], [0, 1]])
    empty_table = Tensor(np.ones((0, 2)), requires_grad=True)
    for table in (weight, empty_table):
        nothing = ops.embedding(np.zeros((2, 0), np.int64), table)
        assert nothing.shape == (2, 0, 2)
        nothing.sum().backward()
        np.testing.assert_array_equal(table.grad, np.zeros(table.shape))


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_an_id_outside_the_table(wrong):
    """A negative one would count from the end without a word."""
    with pytest.raises(IndexError, match=f"token id {wrong} is outside the vocabulary of 3"):
        ops.embedding(np.array([[0, wrong]]), Tensor(np.ones((3, 2))))


@pytest.mark.parametrize("ids", [np.array([0.0, 1.0]), np.array([True]), [0.5]])
def test_ids_that_are_not_whole_numbers(ids):
    with pytest.raises(TypeError, match="whole numbers"):
        ops.embedding(ids, Tensor(np.ones((3, 2))))


def test_a_batch_may_be_filled_anew_before_the_backward_pass():
    ids, weight = np.array([0, 1]), Tensor(np.ones((3, 2)), requires_grad=True)
    y, z = ops.embedding(ids, weight), weight[ids]
    ids[:] = 2
    (y + z).sum().backward()
    assert weight.grad.tolist() == [[2, 2], [2, 2], [0, 0]]
