"""What holds of every operation: it is compared with torch, the stored values are torch's, and it leaves no cycle."""

import gc
import inspect
import weakref

import numpy as np
import pytest
from helpers.against_torch import STORED, by_npgpt, by_torch, requires_torch, some_gradient, stored
from helpers.arrays import lay_out, layouts
from helpers.tolerances import FLOAT64_GRADIENT, FLOAT64_VALUE
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, ops


def test_every_operation_has_stored_results():
    assert {case.split(",")[0] for case in stored()} == set(ops.__all__)


def test_every_operation_is_exported():
    functions = {name for name, value in vars(ops).items() if inspect.isfunction(value)}
    assert functions == set(ops.__all__)


def test_the_stored_results_are_small():
    assert STORED.stat().st_size < 300_000


@requires_torch
@pytest.mark.parametrize("case", stored())
def test_the_stored_results_are_torchs(case):
    known = stored()[case]
    again = by_torch(case.split(",")[0], known["inputs"], known["options"], np.float64)
    assert again.keys() == known["float64"].keys()
    for key, x in again.items():
        # as far as another version of torch, on another processor, may round in another way
        np.testing.assert_allclose(known["float64"][key], x, rtol=1e-13, atol=1e-13 * np.abs(x).max())


# Operations in which torch has NaN in some gradients and we have not, and on purpose.
FINITE_WHERE_TORCH_IS_NOT = {
    "gelu_tanh": "where x is infinite the slope is 0 or 1, its limit",
    "cross_entropy": "a target that is ignored has gradient 0, whatever the logits are",
    "linear_cross_entropy": "the same",
    "causal_self_attention": "what a position may not see is left out; torch multiplies it by 0, and 0 NaN = NaN",
}


@requires_torch
@pytest.mark.parametrize("case", stored())
@given(data=st.data())
def test_not_a_number_comes_out(case, data):
    """NaN or infinity in one number of an input or of dy. Torch in float64 says where it comes out, and where not."""
    operation, known = case.split(",")[0], stored()[case]
    inputs = {name: x.copy() for name, x in known["inputs"].items()}
    dy = some_gradient(known["float64"]["y"].shape, np.float64)
    # The factor dloss is put on a product of matrices, so an infinite one is not held back by an ignored target.
    changeable = [name for name, x in inputs.items() if x.size] + ["dy"] * (operation != "linear_cross_entropy")
    name = data.draw(st.sampled_from(changeable))
    changed = dy if name == "dy" else inputs[name]
    changed.flat[data.draw(st.integers(0, changed.size - 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with np.errstate(all="ignore"):
        right = by_torch(operation, inputs, known["options"], np.float64, dy)
        for dtype in (np.float32, np.float64):
            results = by_npgpt(operation, inputs, known["options"], dtype, dy)
            np.testing.assert_array_equal(np.isnan(results["y"]), np.isnan(right["y"]))
            for key, x in results.items():
                ours, torchs = np.isfinite(x), np.isfinite(right[key])
                if key == "y" or operation not in FINITE_WHERE_TORCH_IS_NOT:
                    np.testing.assert_array_equal(ours, torchs, err_msg=key)
                assert ours[torchs].all(), f"{key}: not finite where torch's is"
            if operation == "causal_self_attention":
                ours, torchs = (all(np.isfinite(x).all() for x in found.values()) for found in (results, right))
                assert ours == torchs, "it vanished"


@pytest.mark.parametrize("case", stored())
@given(data=st.data())
def test_arrays_may_lie_in_memory_in_any_way(case, data):
    """Reversed, transposed, slices of something: the inputs' numbers count, and dy's."""
    operation, known = case.split(",")[0], stored()[case]

    def anywhere(x):
        return lay_out(x, data.draw(layouts)) if x.ndim else x

    inputs = {name: Tensor(anywhere(x.astype(np.float64)), requires_grad=True) for name, x in known["inputs"].items()}
    y = getattr(ops, operation)(**inputs, **known["options"])
    y.backward(anywhere(some_gradient(y.shape, np.float64)))
    found = {"y": y.data, **{f"d{name}": x.grad for name, x in inputs.items()}}
    for key, expected in known["float64"].items():
        tolerance = FLOAT64_VALUE if key == "y" else FLOAT64_GRADIENT
        allowed = tolerance * max(1, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=allowed, err_msg=key)


@pytest.mark.parametrize("case", stored())
def test_nothing_is_left_in_memory(case):
    """A result that is dropped takes its array with it, without the garbage collector: there is no reference cycle."""
    known = stored()[case]
    by_npgpt(case.split(",")[0], known["inputs"], known["options"], np.float32)  # Numba's compiler leaves cycles
    gc.disable()
    try:
        for backward in (False, True):
            inputs = {k: Tensor(x.copy(), requires_grad=True) for k, x in known["inputs"].items()}
            result = getattr(ops, case.split(",")[0])(**inputs, **known["options"])
            if backward:
                result.backward(np.ones(result.shape))
            left = [weakref.ref(result), weakref.ref(result.data)]
            assert all(ref() is not None for ref in left)
            del result
            assert all(ref() is None for ref in left)
    finally:
        gc.enable()


@pytest.mark.parametrize("case", stored())
def test_inputs_are_not_changed_and_not_shared(case):
    """Neither the result nor a gradient lies in an input's memory."""
    known = stored()[case]
    inputs = {k: Tensor(x.copy(), requires_grad=True) for k, x in known["inputs"].items()}
    result = getattr(ops, case.split(",")[0])(**inputs, **known["options"])
    result.backward(np.ones(result.shape))
    for name, tensor in inputs.items():
        np.testing.assert_array_equal(tensor.data, known["inputs"][name])
        assert not np.shares_memory(result.data, tensor.data)
        assert not any(np.shares_memory(tensor.grad, other.data) for other in (*inputs.values(), result))


@pytest.mark.parametrize("case", {case.split(",")[0]: case for case in stored()}.values())
def test_an_array_is_no_tensor(case):
    """It has an attribute ``data`` as well, but that is something else."""
    known = stored()[case]
    for name in known["inputs"]:
        inputs = {k: x if k == name else Tensor(x) for k, x in known["inputs"].items()}
        with pytest.raises(TypeError, match="a Tensor is expected here, not ndarray"):
            getattr(ops, case.split(",")[0])(**inputs, **known["options"])


@pytest.mark.parametrize(
    ("operation", "shapes", "options"),
    [
        ("linear", [(2, 3), (3,)], {}),
        ("softmax", [()], {}),
        ("embedding", [(3,)], {"ids": [0]}),
        ("cross_entropy", [()], {"targets": []}),
        ("linear_cross_entropy", [(2, 3), (3,)], {"targets": [0, 0]}),
        ("lora", [(2, 3), (2, 3), (3,), (1, 3)], {"scale": 1.0}),
        ("lora", [(2, 3), (2, 3), (3, 1), (3,)], {"scale": 1.0}),
        ("rotary", [(2, 3)], {"n_head": 1}),
        ("rotary", [(1, 2, 12)], {"n_head": 0}),
        ("rotary", [(1, 2, 12)], {"n_head": 3}),
        ("rotary", [(1, 2, 9)], {"n_head": 1}),
    ],
)
def test_shapes_that_can_not_be(operation, shapes, options):
    inputs = [Tensor(np.zeros(shape)) for shape in shapes]
    if operation == "embedding":
        inputs = [options["ids"], *inputs]
        options = {}
    with pytest.raises(ValueError, match=rf"^{operation}"):
        getattr(ops, operation)(*inputs, **options)
