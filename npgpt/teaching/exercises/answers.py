"""What a function returned, made comparable with what is right, and compared."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.teaching.exercises.exercise import NotAnAnswer
from npgpt.tensor import Tensor

TOLERANCE = 1e-8  # of results of float64 that add up some ten numbers in another order: 1e-15 would be usual


@dataclass(frozen=True)
class Row:
    """One output beside what is right, at the element where they differ most.

    place       of the element: "dW[2, 0]"
    """

    output: str
    place: str
    ok: bool
    yours: Any
    right: Any


def comparable(place: str, given: Any, right: Any) -> Any:
    """``given`` as something of the same kind and shape as ``right``: an array, or a list or dict of them.

    Raises NotAnAnswer, which says what differs.
    """
    if isinstance(right, dict):
        if not isinstance(given, dict):
            raise NotAnAnswer(f"{place} must be a dict, and is {described(given)}")
        if given.keys() != right.keys():
            raise NotAnAnswer(f"{place} must be of {_listed(right)}, and is of {_listed(given)}")
        return {key: comparable(f"{place}[{key!r}]", given[key], right[key]) for key in right}
    if isinstance(right, list):
        if not isinstance(given, list | tuple):
            raise NotAnAnswer(f"{place} must be a list, and is {described(given)}")
        if not _is_of_arrays(right):
            return list(given)
        if len(given) != len(right):
            raise NotAnAnswer(f"{place} must be a list of {len(right)} arrays, and is one of {len(given)}")
        pairs = zip(given, right, strict=True)
        return [comparable(f"{place}[{i}]", x, y) for i, (x, y) in enumerate(pairs)]
    return _comparable_array(place, given, np.asarray(right))


def _comparable_array(place, given, right) -> np.ndarray:
    if given is None:
        raise NotAnAnswer(f"{place} is None")
    if isinstance(given, Tensor):
        raise NotAnAnswer(f"{place} is a Tensor: return an array")
    array = as_numbers(given)
    if array is None:
        raise NotAnAnswer(f"{place} must be {described(right)}, and is {described(given)}")
    if right.dtype.kind in "iu" and array.shape != right.shape and right.size <= 10 >= array.size:
        raise NotAnAnswer(f"{place} must be {right.tolist()}, and is {array.tolist()}")
    if array.shape != right.shape:
        raise NotAnAnswer(f"{place} must have the shape {right.shape}, and has {array.shape}")
    if right.dtype.kind in "iu" and not np.array_equal(array, np.round(array)):
        raise NotAnAnswer(f"{place} must be of whole numbers")
    if array.dtype in (np.float16, np.float32):
        raise NotAnAnswer(f"{place} is of {array.dtype}, and the arguments of float64: too coarse to be compared")
    return array.astype(np.int64 if right.dtype.kind in "iu" else np.float64)


def as_numbers(given: Any) -> np.ndarray | None:
    """As an array of real numbers or bools; None if it isn't one."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError):  # a list of lists of unequal length; a Tensor
        return None
    return array if array.dtype.kind in "biuf" else None


def described(x: Any) -> str:
    """What it is, for a message."""
    if isinstance(x, np.ndarray):
        return f"an array {x.shape} of {x.dtype}" if x.ndim else "a number"
    return f"of type {type(x).__name__}"


def _listed(mapping) -> str:
    names = [str(name) for name in mapping]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "nothing"


def _is_of_arrays(x: list) -> bool:
    return any(isinstance(element, np.ndarray) for element in x)


def compared(output: str, given: Any, right: Any) -> Row:
    """An output, made ``comparable``, beside what is right."""
    rows = _rows(output, output, given, right)
    return next((row for row in rows if not row.ok), rows[0])


def _rows(output, place, given, right) -> list[Row]:
    if isinstance(right, dict):
        return [row for key in right for row in _rows(output, f"{place}[{key!r}]", given[key], right[key])]
    if isinstance(right, list) and _is_of_arrays(right):
        pairs = enumerate(zip(given, right, strict=True))
        return [row for i, (x, y) in pairs for row in _rows(output, f"{place}[{i}]", x, y)]
    if isinstance(right, list):
        return [Row(output, place, given == right, given, right)]
    right = np.asarray(right)
    if not right.size:
        return [Row(output, place, True, given, right)]
    with np.errstate(all="ignore"):
        error = np.abs(given - right) / np.maximum(1, np.abs(right))
    same = (given == right) | (np.isnan(given) & np.isnan(right))
    error = np.where(same, 0, np.where(error >= 0, error, math.inf))  # NaN is not right
    worst = np.unravel_index(np.argmax(error), right.shape)
    return [Row(output, at(place, worst), bool(error[worst] <= TOLERANCE), given[worst], right[worst])]


def at(place: str, index: Any) -> str:
    """The place of an element: dW[2, 0]; of a number, its name."""
    return f"{place}{list(map(int, index))}" if index else place


def equal(a: Any, b: Any) -> bool:
    """Whether two results are of one shape and have the same values, but for rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return all(map(equal, a, b))
    x, y = as_numbers(a), as_numbers(b)
    if x is None or y is None:
        return type(a) is type(b) and not isinstance(a, np.ndarray) and bool(a == b)
    return x.shape == y.shape and np.allclose(x, y, rtol=1e-9, atol=1e-12, equal_nan=True)
