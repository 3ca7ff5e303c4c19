import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import few, normal, seeds, small_sizes
from helpers.tolerances import FLOAT64_VALUE, rounding
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops
from npgpt.ops.attention import split_heads


@pytest.mark.parametrize("case", stored_cases("rotary"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(st.data(), few, small_sizes, st.integers(1, 3), small_sizes, st.integers(0, 2000))
def test_against_torch(data, B, T, H, half, first):
    check("rotary", {"qkv": data.draw(normal((B, T, 3 * H * 2 * half)))}, {"n_head": H, "first": first})


def test_values_and_position_0_stay():
    qkv = np.random.default_rng(0).standard_normal((1, 4, 24))
    y = ops.rotary(Tensor(qkv), 2).data
    np.testing.assert_array_equal(y[:, :, 16:], qkv[:, :, 16:])
    np.testing.assert_array_equal(y[:, 0], qkv[:, 0])
    assert (y[:, 1:, :16] != qkv[:, 1:, :16]).all()


@given(seeds, st.integers(1, 12), st.integers(1, 3), st.integers(1, 5), *[st.integers(0, 2000)] * 2)
def test_where_a_text_begins_changes_no_score(seed, T, H, half, first, other_first):
    """The scores, and what attention makes of them, are those of the same text at other positions."""
    qkv = Tensor(np.random.default_rng(seed).standard_normal((1, T, 3 * H * 2 * half)))
    one, other = (ops.rotary(qkv, H, first=f) for f in (first, other_first))
    scores = [np.einsum("bihd,bjhd->bhij", *split_heads(turned.data, H)[:2]) for turned in (one, other)]
    # An angle of up to 2000 is rounded by 2000 u, and turns a number by as much.
    allowed = 2000 * rounding(np.float64, 2 * half) * np.square(qkv.data).max() * 2 * half
    np.testing.assert_allclose(*scores, rtol=0, atol=allowed)
    attended = [ops.causal_self_attention(turned, H).data for turned in (one, other)]
    np.testing.assert_allclose(*attended, rtol=0, atol=2 * allowed * np.abs(qkv.data).max())


def test_products_of_queries_and_keys_depend_on_the_distance_alone():
    q, k = np.random.default_rng(0).standard_normal((2, 8))
    same_everywhere = np.broadcast_to(np.concatenate([q, k, np.zeros(8)]), (1, 12, 24))
    turned = ops.rotary(Tensor(np.ascontiguousarray(same_everywhere)), 1, first=100).data[0]
    products = turned[:, :8] @ turned[:, 8:16].T
    for distance in range(-11, 12):
        diagonal = np.diag(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=FLOAT64_VALUE)
    assert abs(products[0, 0] - products[0, 5]) > 0.1
