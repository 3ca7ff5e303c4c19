"""Every version of a kernel against the NumPy version computed in float64: what the tests in ``kernels/`` share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis.strategies import SearchStrategy

from helpers.arrays import as_dtype, copy_of
from helpers.tolerances import rounding, smallest
from npgpt.kernels import KERNELS


@dataclass(frozen=True)
class Case:
    """The inputs that a kernel is tested on. The test file of each kernel has a table CASES = {kernel's name: Case}.

    arguments       draws a tuple of arguments; float arrays in it have the dtype that is tested
    large           (rng, dtype) -> arguments that fill several of the kernel's blocks, for several threads, and part
                    of another
    bounds          float64 arguments -> for each result (terms, magnitude), as ``tolerances.rounding`` takes them
    writes          which arguments are written to, for a kernel that returns nothing
    lists           which arguments a kernel takes as lists of arrays; they are drawn as single ones
    nan_somewhere   results in which a version may have NaN in other places than the NumPy version
    """

    arguments: SearchStrategy
    large: Callable
    bounds: Callable
    writes: tuple[int, ...] = ()
    lists: tuple[int, ...] = ()
    nan_somewhere: tuple[int, ...] = ()


def run(function, case, arguments) -> list[np.ndarray]:
    """The results of a version, on copies of the arguments. It may change only those that it writes to."""
    own = [copy_of(x) for x in arguments]
    with np.errstate(all="ignore"):  # NumPy warns of the infinities that some tests are about
        returned = function(*([x] if i in case.lists else x for i, x in enumerate(own)))
    for i, (before, after) in enumerate(zip(arguments, own, strict=True)):
        if isinstance(before, np.ndarray) and i not in case.writes:
            np.testing.assert_array_equal(after, before, err_msg=f"{function.__name__} changed its argument {i}")
    if case.writes:
        assert returned is None
        return [own[i] for i in case.writes]
    return [np.asarray(x) for x in (returned if isinstance(returned, tuple) else (returned,))]


def dtype_of(arguments):
    return next(x.dtype for x in arguments if isinstance(x, np.ndarray) and x.dtype.kind == "f")


def versions_agree(name, case, arguments, versions=None) -> None:
    """All versions, at the arguments' precision, are as near to the NumPy version in float64 as rounding allows."""
    dtype = dtype_of(arguments)
    in_float64 = [as_dtype(x, np.float64) for x in arguments]
    exact = run(KERNELS[name]["numpy"], case, in_float64)
    with np.errstate(all="ignore"):
        bounds = case.bounds(*in_float64)
    for version in versions or KERNELS[name]:
        if version == "numpy" and dtype == np.float64:
            continue  # that is the reference itself
        results = run(KERNELS[name][version], case, arguments)
        assert len(results) == len(exact) == len(bounds), f"{name} {version}: {len(results)} results"
        for i, (result, right, (terms, magnitude)) in enumerate(zip(results, exact, bounds, strict=True)):
            what = f"{name}, {version}, {np.dtype(dtype)}, result {i}"
            assert result.shape == right.shape, what
            assert result.ndim == 0 or result.dtype == dtype, what
            finite = np.isfinite(right)
            np.testing.assert_array_equal(np.where(finite, 0, result), np.where(finite, 0, right), err_msg=what)
            allowed = rounding(dtype, terms) * np.broadcast_to(magnitude, right.shape) + smallest(dtype)
            error = np.abs(result - np.where(finite, right, 0), where=finite, out=np.zeros(right.shape))
            worst = np.unravel_index(np.argmax(error / allowed), right.shape) if right.size else ()
            assert np.all(error <= allowed), (
                f"{what}{list(map(int, worst))}: {result[worst]} instead of {right[worst]}, "
                f"off by {error[worst]:.3g} where {allowed[worst]:.3g} is allowed"
            )


def not_a_number_comes_out(name, case, arguments, i, place, special) -> list[np.ndarray]:
    """NaN or infinity at a place in argument i gives NaN or infinity where the NumPy version has them.

    -> the NumPy version's results
    """
    arguments = [copy_of(x) for x in arguments]
    arguments[i].flat[place] = special
    expected = run(KERNELS[name]["numpy"], case, arguments)
    for version, function in KERNELS[name].items():
        what = f"{name}, {version}: {special} in argument {i} at {place}"
        results = run(function, case, arguments)
        for j, (result, right) in enumerate(zip(results, expected, strict=True)):
            if j not in case.nan_somewhere:
                np.testing.assert_array_equal(np.isfinite(result), np.isfinite(right), err_msg=f"{what}, result {j}")
        assert all_finite(results) == all_finite(expected), what
    return expected


def all_finite(arrays) -> bool:
    return all(np.isfinite(x).all() for x in arrays)


def places_for_nan(case, arguments) -> list[int]:
    """The arguments that have an element to be replaced by NaN."""
    floats = [i for i, x in enumerate(arguments) if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.size]
    return [i for i in floats if i not in case.writes]


def large_arguments(case, dtype) -> tuple:
    return case.large(np.random.default_rng(0), dtype)
