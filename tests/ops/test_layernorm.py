import numpy as np
import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, rows, sizes
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


@pytest.mark.parametrize("case", stored_cases("layernorm"))
def test_stored(case):
    check_stored(case)


@requires_torch
@given(st.data(), rows(sizes.filter(lambda C: C != 1)), st.booleans(), st.sampled_from([1e-5, 1e-3]))
def test_against_torch(data, shape, with_bias, eps):
    C = shape[-1]  # not 1: there dx is 0, and what cancels to it is rounded by luck; see the kernel's own test
    x, weight = data.draw(normal(shape)), data.draw(normal((C,)))
    bias = data.draw(normal((C,))) if with_bias else None
    check("layernorm", {"x": x, "weight": weight, "bias": bias}, {"eps": eps})


@pytest.mark.parametrize(
    ("x", "weight", "bias"), [((2, 3), (2,), None), ((2, 3), (3,), (2,)), ((2, 3), (2, 3), None), ((), (1,), None)]
)
def test_shapes_that_do_not_fit(x, weight, bias):
    x, weight, bias = (None if shape is None else Tensor(np.ones(shape)) for shape in (x, weight, bias))
    with pytest.raises(ValueError, match="layernorm"):
        ops.layernorm(x, weight, bias)


def test_dtypes_do_not_mix():
    """It would fail in the backward pass only, and only if the weight wants a gradient."""
    x, weight = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones(3))
    for arguments in ((x, weight), (Tensor(np.ones((2, 3))), weight, Tensor(np.ones(3, np.float32)))):
        with pytest.raises(TypeError, match="must be too"):
            ops.layernorm(*arguments)
