import numpy as np
import pytest
from against_torch import check, check_stored, requires_torch, stored_cases
from arrays import normal
from hypothesis import given
from hypothesis import strategies as st
from tolerances import FLOAT64_VALUE

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("rotary"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(st.data(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2000))
def test_against_torch(data, B, T, H, half, first):
    check("rotary", {"qkv": data.draw(normal((B, T, 3 * H * 2 * half)))}, {"n_head": H, "first": first})


def test_values_and_position_0_stay():
    qkv = np.random.default_rng(0).standard_normal((1, 4, 24))
    y = ops.rotary(Tensor(qkv), 2).data
    np.testing.assert_array_equal(y[:, :, 16:], qkv[:, :, 16:])
    np.testing.assert_array_equal(y[:, 0], qkv[:, 0])
    assert (y[:, 1:, :16] != qkv[:, 1:, :16]).all()


def test_products_of_queries_and_keys_depend_on_the_distance_alone():
    q, k = np.random.default_rng(0).standard_normal((2, 8))
    same_everywhere = np.broadcast_to(np.concatenate([q, k, np.zeros(8)]), (1, 12, 24))
    turned = ops.rotary(Tensor(np.ascontiguousarray(same_everywhere)), 1, first=100).data[0]
    products = turned[:, :8] @ turned[:, 8:16].T
    for distance in range(-11, 12):
        diagonal = np.diag(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=FLOAT64_VALUE)
    assert abs(products[0, 0] - products[0, 5]) > 0.1
