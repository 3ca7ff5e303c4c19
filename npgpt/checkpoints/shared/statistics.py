"""What is in a checkpoint's tensors: statistics and warnings for one, differences between two. A piece at a time."""

import hashlib
from dataclasses import dataclass

import numpy as np

from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import CHUNK, LazyTensor
from npgpt.checkpoints.shared.names import short_name

LARGE = 1e4  # no weight of a GPT-2 comes near; float16 ends at 65,504


@dataclass(frozen=True)
class Survey:
    """One tensor's numbers.

    norm        the root of the sum of squares, and largest the largest size, over the finite ones
    not_finite  how many are NaN or infinite
    zero_rows   how many of its rows (the vectors along the last axis) are all zero
    constant    all numbers are this one; None if they differ, or there is one alone
    digest      equal for equal numbers in equal order
    """

    norm: float
    largest: float
    not_finite: int
    zero_rows: int
    constant: float | None
    digest: bytes


def survey(tensor: LazyTensor) -> Survey:
    squares, largest, not_finite, zero_rows, first, same = 0.0, 0.0, 0, 0, None, tensor.size > 1
    digest = hashlib.blake2b(str(tensor.shape).encode())
    for numbers in tensor.iter_flat():
        numbers = np.ascontiguousarray(numbers)
        zero_rows += int(np.count_nonzero(~numbers.any(axis=-1)))
        flat = numbers.reshape(-1)
        for begin in range(0, flat.size, CHUNK):  # one row may be all of it
            wide = flat[begin : begin + CHUNK].astype(np.float64)
            digest.update(wide.data)
            finite = np.isfinite(wide)
            not_finite += int(wide.size - np.count_nonzero(finite))
            kept = np.where(finite, wide, 0.0)
            squares += float(np.vdot(kept, kept))
            largest = max(largest, float(np.abs(kept).max()))
            first = wide[0] if first is None else first
            same = same and bool((wide == first).all())
    constant = float(first) if same and first is not None else None
    return Survey(squares**0.5, largest, not_finite, zero_rows, constant, digest.digest())


def warnings(checkpoint: Checkpoint, surveys: dict[str, Survey]) -> list[str]:
    """What a careful reader would want to know of the weights, a line each."""
    odd, seen = [], {}
    for name, s in surveys.items():
        tensor = checkpoint.tensors[name]
        size = tensor.size
        if s.not_finite:
            odd.append(f"{short_name(name)}: {s.not_finite:,} of {size:,} numbers are NaN or infinite")
        if s.largest > LARGE:
            odd.append(f"{short_name(name)}: its largest number is {s.largest:.3g}")
        if s.constant is not None and name.endswith(".weight"):
            # As layer norms' weights are made, with 1, and biases, with 0, before training.
            if not (".ln_" in f".{name}" and s.constant == 1):
                odd.append(f"{short_name(name)}: all its numbers are {s.constant:.6g}")
        elif s.zero_rows and len(tensor.shape) == 2:
            odd.append(f"{short_name(name)}: {s.zero_rows:,} of {tensor.shape[0]:,} rows are zero")
        if s.constant is None and s.digest in seen:
            odd.append(f"{short_name(name)}: the same numbers as {seen[s.digest]}")
        seen.setdefault(s.digest, short_name(name))
    return odd


@dataclass(frozen=True)
class Difference:
    """Two tensors of one shape: the largest difference of two numbers, and the norm of all over the first's norm."""

    largest: float
    relative: float


def difference(a: LazyTensor, b: LazyTensor) -> Difference | None:
    """None if all numbers are equal; NaN equals NaN. The shapes must be equal.

    A NaN or an infinity that the other one doesn't have is an infinite difference.
    """
    equal, largest, squares, norm = True, 0.0, 0.0, 0.0
    for x, y in _together(a, b):
        x, y = x.astype(np.float64), y.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        equal = equal and bool(same.all())
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(same, 0.0, np.abs(x - y))
            apart[np.isnan(apart)] = np.inf
            largest = max(largest, float(apart.max(initial=0.0)))
            squares += float(np.vdot(apart, apart))
            kept = np.where(np.isfinite(x), x, 0.0)
            norm += float(np.vdot(kept, kept))
    if equal:
        return None
    return Difference(largest, (squares / norm) ** 0.5 if norm else float("inf"))


def _together(a: LazyTensor, b: LazyTensor):
    """Pairs of arrays with the same part of both."""
    if a.transposed == b.transposed:
        yield from ((x, y) for (_, x), (_, y) in zip(a.chunks(), b.chunks(), strict=True))
    elif a.size:
        yield a.numpy(), b.numpy()
