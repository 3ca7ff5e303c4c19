"""An operation's result and gradients against torch's: what the tests in ``ops/`` share.

An operation is called by its name, with its differentiable arguments in one dictionary and the others in a second:

    check("layernorm", {"x": x, "weight": weight, "bias": None}, {"eps": 1e-5})

which compares y, and the gradients dx and dweight for some dy, in float64 and in float32. ``check_stored`` does the
same with results of torch that are kept in reference/, so that it needs no torch.
"""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from helpers.tolerances import FLOAT32_EXTRA, FLOAT32_TIMES_TORCH, FLOAT64_GRADIENT, FLOAT64_VALUE
from npgpt import Tensor, ops

STORED = Path(__file__).parents[1] / "reference" / "ops.npz"

requires_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install torch")


def by_npgpt(name, inputs, options, dtype, dy=None) -> dict[str, np.ndarray]:
    """{"y": the result, "dNAME": the gradient of each input} for this dy, or for ``some_gradient``"""
    tensors = {k: Tensor(x.astype(dtype), requires_grad=True) for k, x in inputs.items()}
    y = getattr(ops, name)(**tensors, **options)
    y.backward(some_gradient(y.shape, dtype) if dy is None else dy)
    return {"y": y.data, **{f"d{k}": x.grad for k, x in tensors.items()}}


def by_torch(name, inputs, options, dtype, dy=None) -> dict[str, np.ndarray]:
    """The same of torch, which must be installed."""
    import torch

    from helpers import torch_ops

    tensors = {k: torch.tensor(x.astype(dtype), requires_grad=True) for k, x in inputs.items()}
    y = getattr(torch_ops, name)(**tensors, **options)
    y.backward(torch.tensor(some_gradient(y.shape, dtype) if dy is None else dy.astype(dtype)))
    return {"y": y.detach().numpy(), **{f"d{k}": x.grad.numpy() for k, x in tensors.items()}}


def some_gradient(shape, dtype) -> np.ndarray:
    """Irregular values from -1.6 to 1.6 for dy, exact in both formats and equal on every machine."""
    return ((np.arange(math.prod(shape)) * 37 + 11) % 101 / 32 - 50 / 32).reshape(shape).astype(dtype)


def check(name, inputs, options=None, condition=1.0) -> None:
    """Both formats against torch, which must be installed. An input may be None; its values must be exact in float32.

    condition: the factor by which a relative rounding error grows on the way to the results
    """
    inputs = {k: x for k, x in inputs.items() if x is not None}
    options = options or {}
    torch64, torch32 = (by_torch(name, inputs, options, dtype) for dtype in (np.float64, np.float32))
    compare(name, inputs, options, torch64, torch32, condition)


def compare(name, inputs, options, torch64, torch32, condition=1.0) -> None:
    ours64, ours32 = (by_npgpt(name, inputs, options, dtype) for dtype in (np.float64, np.float32))
    assert ours64.keys() == ours32.keys() == torch64.keys()
    for key, exact in torch64.items():
        largest = max(1.0, np.abs(exact).max(initial=0))
        for result, dtype in ((ours64[key], np.float64), (ours32[key], np.float32)):
            assert result.dtype == dtype, f"{name}, {key}: {result.dtype}"
            assert result.shape == exact.shape, f"{name}, {key}: {result.shape} instead of {exact.shape}"
            assert np.isfinite(result).all(), f"{name}, {key}: {dtype.__name__} result is not finite"
        error = np.abs(ours64[key] - exact).max(initial=0)
        allowed = largest * (FLOAT64_VALUE if key == "y" else FLOAT64_GRADIENT)
        assert error <= allowed, f"{name}, {key}, float64: off by {error:.3g}, {allowed:.3g} is allowed"
        error, torchs = (np.abs(x[key] - exact).max(initial=0) for x in (ours32, torch32))
        allowed = FLOAT32_TIMES_TORCH * torchs + FLOAT32_EXTRA * largest * condition
        assert error <= allowed, f"{name}, {key}, float32: off by {error:.3g}, torch by {torchs:.3g}"


# The stored results. In the file, the arrays of a case are called CASE/inputs/NAME, CASE/options/NAME, CASE/float64/y,
# CASE/float64/dNAME and CASE/float32/...; CASE is an operation's name, or "OPERATION, what is special".


@cache
def stored() -> dict[str, dict]:
    """{case: {"inputs": {name: array}, "options": {...}, "float64": {"y": array ...}, "float32": {...}}}"""
    cases = {}
    with np.load(STORED) as file:
        for key in file.files:
            case, part, name = key.split("/")
            parts = cases.setdefault(case, {"inputs": {}, "options": {}, "float64": {}, "float32": {}})
            array = file[key]
            parts[part][name] = array.item() if part == "options" and array.ndim == 0 else array
    return cases


def stored_cases(name) -> list[str]:
    """The names of an operation's cases, to parametrize a test with."""
    names = [case for case in stored() if case.split(",")[0] == name]
    assert names, f"no stored case for {name}"
    return names


def check_stored(case) -> None:
    known = stored()[case]
    compare(case.split(",")[0], known["inputs"], known["options"], known["float64"], known["float32"])
