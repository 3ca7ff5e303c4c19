import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import few, normal, seeds, small_sizes
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("causal_self_attention"))
def test_stored(case):
    check_stored(case)


@st.composite
def arguments(draw, lengths):
    """Padding is anywhere, also all that a position could see."""
    B, T, H, D = draw(few), draw(lengths), draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 8]))
    options = {"n_head": H}
    padding = draw(st.sampled_from([None, None, 0.2, 0.9, 1.0]))
    if padding is not None:
        options["padding_mask"] = np.random.default_rng(draw(seeds)).random((B, T)) >= padding
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([0.05, 2.0]))
    if draw(st.booleans()):
        options |= {"dropout": draw(st.sampled_from([0.1, 0.7])), "seed": draw(seeds)}
    return draw(normal((B, T, 3 * H * D))), options


def largest_score(qkv, options):
    """At least 1. A score S is rounded by u |S|, and exp(S) then is off by as much of itself."""
    B, T, C3 = qkv.shape
    H = options["n_head"]
    q, k, _ = qkv.reshape(B, T, 3, H, C3 // 3 // H).astype(np.float64).transpose(2, 0, 3, 1, 4)
    scale = options.get("scale", q.shape[-1] ** -0.5)
    return max(1.0, scale * np.abs(q @ k.swapaxes(-1, -2)).max(initial=0))


@requires_torch
@given(arguments(small_sizes))
def test_against_torch(drawn):
    qkv, options = drawn
    check("causal_self_attention", {"qkv": qkv}, options, largest_score(qkv, options))


@requires_torch
@given(arguments(st.sampled_from([63, 64, 65, 130])))
def test_several_blocks_of_queries_against_torch(drawn):
    qkv, options = drawn
    check("causal_self_attention", {"qkv": qkv}, options, largest_score(qkv, options))


def test_shapes_that_do_not_fit():
    qkv = Tensor(np.ones((2, 4, 12)))
    for wrong in (Tensor(np.ones((4, 12))), Tensor(np.ones((2, 4, 13))), Tensor(np.ones((2, 4, 0)))):
        with pytest.raises(ValueError, match="attention: qkv"):
            ops.causal_self_attention(wrong, 2)
    for heads in (5, 0):
        with pytest.raises(ValueError, match=f"divisible by {heads} heads"):
            ops.causal_self_attention(qkv, heads)
    for mask in (np.ones((2, 5), bool), np.ones((2, 4)), np.ones((4,), bool), np.ones((2, 4), int)):
        with pytest.raises(ValueError, match="padding mask"):
            ops.causal_self_attention(qkv, 2, padding_mask=mask)
