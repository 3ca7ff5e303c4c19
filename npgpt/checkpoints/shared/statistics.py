"""Statistics of a checkpoint's tensors, warnings about them, and differences between two. A piece at a time."""

import hashlib
from typing import NamedTuple

import numpy as np

from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import CHUNK, LazyTensor
from npgpt.checkpoints.shared.names import short_name

LARGE = 1e4  # no weight of a GPT-2 comes near; float16 ends at 65,504


class Survey(NamedTuple):
    """One tensor's elements.

    norm        the root of the sum of squares, and largest the largest size, over the finite ones
    not_finite  how many are NaN or infinite
    zero_rows   how many of its rows (the vectors along the last axis) are all zero
    constant    all elements are this one; None if they differ, or there is one alone
    digest      equal for equal elements in equal order
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
    for rows in tensor.iter_flat():
        zero_rows += int(np.count_nonzero(~rows.any(axis=-1)))
        flat = rows.reshape(-1)
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
    """Warnings about the weights, a line each."""
    odd, seen = [], {}
    for name, s in surveys.items():
        tensor, found = checkpoint.tensors[name], []
        if s.not_finite:
            found.append(f"{s.not_finite:,} of {tensor.size:,} elements are NaN or infinite")
        if s.largest > LARGE:
            found.append(f"its largest element is {s.largest:.3g}")
        if s.constant is not None and name.endswith(".weight"):
            # As layer norms' weights are made, with 1, and biases, with 0, before training.
            if not (".ln_" in f".{name}" and s.constant == 1):
                found.append(f"all its elements are {s.constant:.6g}")
        elif s.zero_rows and len(tensor.shape) == 2:
            found.append(f"{s.zero_rows:,} of {tensor.shape[0]:,} rows are zero")
        if s.constant is None and s.digest in seen:
            found.append(f"the same elements as {seen[s.digest]}")
        seen.setdefault(s.digest, short_name(name))
        odd += [f"{short_name(name)}: {line}" for line in found]
    return odd


class Difference(NamedTuple):
    """Two tensors of one shape: the largest difference of two elements, and the norm of all over the first's norm."""

    largest: float
    relative: float


def difference(a: LazyTensor, b: LazyTensor) -> Difference | None:
    """The difference of two tensors of one shape; None if all elements are equal. NaN equals NaN.

    A NaN or an infinity that the other one doesn't have is an infinite difference.
    """
    equal, largest, squares, norm = True, 0.0, 0.0, 0.0
    chunks = zip(a.chunks(), b.chunks(), strict=True)
    pairs = ((x, y) for (_, x), (_, y) in chunks) if a.transposed == b.transposed else [(a.numpy(), b.numpy())]
    for x, y in pairs:
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
