"""What holds of every operation: it is compared with torch, the stored values are torch's, and it leaves no cycle."""

import gc
import inspect
import weakref

import numpy as np
import pytest
from against_torch import STORED, by_npgpt, by_torch, requires_torch, stored

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
