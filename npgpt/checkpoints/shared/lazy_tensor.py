"""A tensor that is in a file: what it is can be asked at once, its elements are read a few rows at a time.

So loading takes the memory of the model and a little more, whatever dtype the elements are stored in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from npgpt.kernels.bfloat16 import bf16_to_f32

# The dtypes that weights may have, and the bytes of an element.
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "Q8_0": 34 / 32, "Q4_0": 18 / 32, "Q4_1": 20 / 32}
BYTES |= {"Q5_0": 22 / 32, "Q5_1": 24 / 32, "Q6_K": 210 / 256}
CHUNK = 1 << 20  # elements that are converted at a time


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor in a file.

    shape       as we use it
    dtype       as most formats call it: "F32", "BF16", "Q8_0", "I64"; ``BYTES`` says which are weights
    read_rows   read_rows(first, last) -> the tensor's elements there, along the file's first axis: an array of shape
                (last - first, ...), of a dtype that NumPy has (BF16 becomes float32); read-only if it is a view
                of the file. A tensor without axes has one row
    transposed  the file has its two axes the other way round
    """

    shape: tuple[int, ...]
    dtype: str
    read_rows: Callable[[int, int], np.ndarray]
    transposed: bool = False

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in BYTES

    @property
    def T(self) -> "LazyTensor":
        """The transposed of a matrix."""
        if len(self.shape) != 2:
            raise ValueError(f"a matrix was expected, not a tensor of shape {self.shape}")
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    @property
    def file_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.transposed else self.shape

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first, rows) chunks from the first row of the file's tensor to the last, some CHUNK elements at a time."""
        if self.size == 0:
            return
        rows, *others = self.file_shape or (1,)
        step = max(1, CHUNK // prod(others))
        for first in range(0, rows, step):
            yield first, self.read_rows(first, min(first + step, rows))

    def iter_flat(self) -> Iterator[np.ndarray]:
        """Chunks of rows that, one after the other, hold the elements in C order. All of a transposed one is read."""
        if self.transposed and self.size:
            whole, step = self.numpy(), max(1, CHUNK // self.shape[1])
            yield from (whole[first : first + step] for first in range(0, len(whole), step))
        else:
            yield from (elements for _, elements in self.chunks())

    def copy_to(self, out: np.ndarray) -> bool:
        """Copy the elements to ``out``, an array of our shape, converted to its dtype; False if one is not finite.

        >>> out = np.zeros(2, np.float32)
        >>> lazy_array(np.array([1.0, 1e39])).copy_to(out), out
        (False, array([ 1., inf], dtype=float32))
        """
        if out.shape != self.shape:
            raise ValueError(f"{out.shape} is not the shape {self.shape}")
        target = out.T if self.transposed else out.reshape(1) if out.ndim == 0 else out
        finite = True
        for first, elements in self.chunks():
            part = target[first : first + len(elements)]
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(part, elements, casting="same_kind")
                # One pass over what is in the cache. A sum of finite elements may overflow, so it is not the last word.
                finite = finite and bool(np.isfinite(part.sum()) or np.isfinite(part).all())
        return finite

    def numpy(self) -> np.ndarray:
        """All the elements, of our shape, read-only; a view of the file where it has them as NumPy does."""
        rows = self.file_shape[0] if self.file_shape else 1
        elements = self.read_rows(0, rows).reshape(self.file_shape)
        elements.flags.writeable = False
        return elements.T if self.transposed else elements


def lazy_array(array: np.ndarray, dtype: str | None = None) -> LazyTensor:
    """An array in memory, or a view of a file, as a ``LazyTensor``. ``dtype`` "BF16": its bits as uint16."""
    by_row = array.reshape(1) if array.ndim == 0 else array
    if dtype == "BF16":
        return LazyTensor(array.shape, dtype, lambda first, last: bf16_to_f32(by_row[first:last]))
    return LazyTensor(array.shape, dtype or name_of(array.dtype), lambda first, last: by_row[first:last])


def equal(a: LazyTensor, b: LazyTensor) -> bool:
    """True if shapes and all elements are the same. Compares with no more than two chunks of either in memory."""
    if a is b:
        return True
    if a.shape != b.shape:
        return False
    if a.transposed != b.transposed:
        return np.array_equal(a.numpy(), b.numpy())
    return all(np.array_equal(x, y) for (_, x), (_, y) in zip(a.chunks(), b.chunks(), strict=True))


def name_of(dtype: np.dtype) -> str:
    """NumPy's float32 -> "F32", int64 -> "I64", bool -> "BOOL"."""
    return dtype.name.upper().replace("FLOAT", "F").replace("UINT", "U").replace("INT", "I")
