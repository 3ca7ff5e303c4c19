import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, shapes
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("dropout"))
def test_stored(case):
    """The stored case also holds the mask fast: another one would break resumed runs without a word."""
    check_stored(case)


@requires_torch
@given(shapes.flatmap(normal), st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.integers(0, 2**64 - 1))
def test_against_torch(x, p, seed):
    """With our mask, in forward and backward pass."""
    check("dropout", {"x": x}, {"p": p, "seed": seed})


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_a_p_that_cannot_be(p):
    with pytest.raises(ValueError, match="dropout"):
        ops.dropout(Tensor(np.ones(3)), p, 0)


@pytest.mark.parametrize(
    ("p", "seed", "words"),
    [(1.0, 0, "p must be"), (-0.5, 0, "p must be"), (1.5, 0, "p must be"), (float("nan"), 0, "p must be"),
     (0.5, -1, "seed must be"), (0.5, 2**64, "seed must be"), (0.5, 1.5, "seed must be")],
)  # fmt: skip
@pytest.mark.parametrize("operation", ["dropout", "attention", "lora"])
def test_what_can_not_be_is_refused_by_all_that_drop(operation, p, seed, words):
    x = Tensor(np.ones((1, 3, 6)))
    with pytest.raises(ValueError, match=words):
        {
            "dropout": lambda: ops.dropout(x, p, seed),
            "attention": lambda: ops.causal_self_attention(x, 2, dropout=p, seed=seed),
            "lora": lambda: ops.lora(x, x, Tensor(np.ones((6, 2))), Tensor(np.ones((2, 6))), 1.0, p, seed),
        }[operation]()
