"""Storages, and tensors, which are views of them: the objects in the pickles of ``torch.save``.

A tensor is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks): element (i, j) is the
storage's element offset + i * stride[0] + j * stride[1]. So a matrix may lie in the file row by row, column by column,
or as part of another. All that is checked against the storage, and a tensor may not have more elements than its storage
(PyTorch's ``expand`` makes such, with strides of 0: a few bytes that would fill the memory).
"""

import reprlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.pickles import ORDERED_DICT, Attributes, Global, short_repr
from npgpt.errors import CheckpointError
from npgpt.kernels.bfloat16 import bf16_to_f32

MAX_DIMENSIONS = 32
PIECE_BYTES = 16 << 20  # that a checksum is computed of at a time

# The class of a storage in the pickle, the dtype of ``LazyTensor``, and NumPy's.
STORAGE_TYPES: dict[str, tuple[str, np.dtype]] = {
    "torch.DoubleStorage": ("F64", np.dtype("<f8")),
    "torch.FloatStorage": ("F32", np.dtype("<f4")),
    "torch.HalfStorage": ("F16", np.dtype("<f2")),
    "torch.BFloat16Storage": ("BF16", np.dtype("<u2")),
    "torch.LongStorage": ("I64", np.dtype("<i8")),
    "torch.IntStorage": ("I32", np.dtype("<i4")),
    "torch.ShortStorage": ("I16", np.dtype("<i2")),
    "torch.CharStorage": ("I8", np.dtype("i1")),
    "torch.ByteStorage": ("U8", np.dtype("u1")),
    "torch.BoolStorage": ("BOOL", np.dtype("u1")),
}


@dataclass(eq=False)
class Storage:
    """Elements of one type in a file.

    place    what messages call it
    kind     its class, of STORAGE_TYPES
    begin    where it is in the file; set later, if the file says that later
    crc      its CRC-32; None if there is none, or it has been found right
    """

    file: MappedFile
    place: str
    kind: str
    count: int
    begin: int = 0
    crc: int | None = None

    def __post_init__(self):
        self.dtype, self.numpy_dtype = STORAGE_TYPES[self.kind]
        self.nbytes = self.count * self.numpy_dtype.itemsize

    def read(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """Elements, read-only if they are a view of the file. Raises CheckpointError if the checksum is wrong."""
        self._check_crc()
        size, array = self.numpy_dtype.itemsize, self.file.array(self.begin, "u1", self.nbytes, self.place)
        found = np.ndarray(shape, self.numpy_dtype, array, offset * size, [stride * size for stride in strides])
        if self.dtype == "BF16":
            return bf16_to_f32(found)
        return found != 0 if self.dtype == "BOOL" else found

    def _check_crc(self):
        if self.crc is None:
            return
        crc = 0
        for first in range(0, self.nbytes, PIECE_BYTES):
            length = min(PIECE_BYTES, self.nbytes - first)
            crc = zlib.crc32(self.file.array(self.begin + first, "u1", length, self.place), crc)
            self.file.release_pages()  # a model may be one storage
        if crc != self.crc:
            raise CheckpointError(f"{self.file.path}: {self.place}: damaged: its CRC-32 is another")
        self.crc = None


class Tensors:
    """The functions for ``read_pickle``: ``allowed`` and ``load_storage``.

    new_storage    new_storage(key, kind, count) -> the storage of that key; called once for each key
    storages       {key: storage}, in the order in which they are first used
    """

    def __init__(self, new_storage: Callable[[str, str, int], Storage]):
        self.new_storage = new_storage
        self.storages = {}
        self.made = {}  # so that the same tensor is known by being the same object
        self.allowed = (
            ORDERED_DICT,
            Global("torch._utils._rebuild_tensor_v2", self.rebuild_tensor),
            Global("torch._utils._rebuild_parameter", self.rebuild_parameter),
            *map(Global, STORAGE_TYPES),
            Global("__main__.GPTConfig", Attributes),  # build-nanogpt's: see nanogpt.py
        )

    def load_storage(self, id: object) -> Storage:
        """The storage of a persistent id: ("storage", its class, key, device, count); the legacy form adds None."""
        if not isinstance(id, tuple) or len(id) not in (5, 6) or id[0] != "storage" or id[5:] not in ((), (None,)):
            raise CheckpointError("a storage must be named by a tuple of its type, key, device and length")
        kind, key, _, count = id[1:5]
        if not isinstance(kind, Global) or kind.name not in STORAGE_TYPES or not isinstance(key, str):
            raise CheckpointError("a storage must be named by a tuple of its type, key, device and length")
        _check_sizes((count,), "a storage's length")
        if key not in self.storages:
            self.storages[key] = self.new_storage(key, kind.name, count)
        storage = self.storages[key]
        if (kind.name, count) != (storage.kind, storage.count):
            raise CheckpointError(
                f"{storage.place} is {storage.count:,} of {storage.kind}, then {count:,} of {kind.name}"
            )
        return storage

    def rebuild_tensor(self, storage: object, offset: Any, shape: Any, strides: Any, *others: object) -> LazyTensor:
        """torch._utils._rebuild_tensor_v2. Others: requires_grad, hooks, neither of which matters here; metadata."""
        if not isinstance(storage, Storage):
            raise CheckpointError("a tensor without a storage")
        _check_sizes((offset,), "a tensor's offset")
        _check_sizes(shape, "a tensor's size")
        _check_sizes(strides, "a tensor's stride")
        if any(others[2:]):
            raise CheckpointError("a tensor with metadata, such as one that is negated when it is looked at")
        return self._stored(storage, offset, shape, strides)

    def rebuild_parameter(self, tensor: object, requires_grad: object, hooks: object) -> LazyTensor:
        """torch._utils._rebuild_parameter"""
        if not isinstance(tensor, LazyTensor):
            raise CheckpointError("a parameter without a tensor")
        return tensor

    def _stored(self, storage: Storage, offset: int, shape: tuple, strides: tuple) -> LazyTensor:
        if storage.numpy_dtype.itemsize * prod(max(size, 1) for size in shape) >= 2**63:  # NumPy's limit
            raise CheckpointError(f"a tensor of size {reprlib.repr(shape)} is too large")
        count = prod(shape)
        # The stride of an axis of size 1 is never used, and PyTorch leaves anything there.
        strides = tuple(stride if size > 1 and count else 0 for size, stride in zip(shape, strides, strict=True))
        last = offset - 1
        if count:
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if last >= storage.count or count > storage.count:
            raise CheckpointError(
                f"a tensor of size {shape} and stride {strides} is beyond its storage of {storage.count:,}"
            )
        place = (storage, offset, shape, strides)
        if place not in self.made:
            by_column = len(shape) == 2 and 0 < strides[0] < strides[1]  # as it lies in the file
            tensor = _tensor(storage, offset, *((shape[::-1], strides[::-1]) if by_column else (shape, strides)))
            self.made[place] = tensor.T if by_column else tensor
        return self.made[place]


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> LazyTensor:
    def read_rows(first, last):
        if not shape:
            return storage.read(offset, (1,), (0,))
        return storage.read(offset + first * strides[0], (last - first, *shape[1:]), strides)

    return LazyTensor(shape, storage.dtype, read_rows)


def _check_sizes(values: Any, what: str) -> None:
    """Raise CheckpointError unless they are up to MAX_DIMENSIONS whole numbers of at least 0; True is none here."""
    is_tuple = isinstance(values, tuple) and len(values) <= MAX_DIMENSIONS
    if not is_tuple or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        shown = ", ".join(map(short_repr, values)) if is_tuple else short_repr(values)
        raise CheckpointError(f"{what} must be a tuple of up to {MAX_DIMENSIONS} whole numbers, not {shown[:100]}")
