"""What the pickles of ``torch.save`` are made of: storages, and tensors, which are views of them.

A tensor is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks): element (i, j) is the
storage's number offset + i * stride[0] + j * stride[1]. So a matrix may lie in the file row by row, column by column,
or as part of another. All that is checked against the storage, and a tensor may not have more numbers than its storage
(PyTorch's ``expand`` makes such, with strides of 0: a few bytes that would fill the memory).
"""

import reprlib
import zlib
from math import prod
from typing import NamedTuple

import numpy as np

from npgpt.checkpoints.pytorch.nesting import OrderedDict
from npgpt.checkpoints.pytorch.pickles import ORDERED_DICT, Function, short_repr
from npgpt.checkpoints.shared.lazy_tensor import FLOATS, LazyTensor, bf16_to_f32
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError

MAX_DIMENSIONS = 32
PIECE_BYTES = 16 << 20  # that a checksum is computed of at a time

# What the pickle calls a type of numbers, what LazyTensor calls it, and how NumPy sees it.
STORAGE_TYPES = {
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


class StorageType(NamedTuple):
    """What the name of a storage's class stands for."""

    name: str


class Storage:
    """Numbers of one type in a file.

    place    what messages call it
    begin    where they are in the file; None until that is known
    crc      CRC-32 of them; None if there is none, or it has been found right
    """

    def __init__(self, file: MappedFile, place: str, kind: str, count: int, begin=None, crc=None):
        self.file = file
        self.place = place
        self.kind = kind
        self.count = count
        self.begin = begin
        self.crc = crc
        self.dtype, self.numpy_dtype = STORAGE_TYPES[kind]
        self.nbytes = count * self.numpy_dtype.itemsize

    def check_same(self, kind: str, count: int) -> None:
        if (kind, count) != (self.kind, self.count):
            raise CheckpointError(f"{self.place} is {self.count:,} of {self.kind} at first, then {count:,} of {kind}")

    def view(self, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
        """The numbers, of ``numpy_dtype``, read-only. Raises CheckpointError if their checksum is wrong."""
        self._check_crc()
        numbers = self.file.array(self.begin, "u1", self.nbytes, self.place)
        size = self.numpy_dtype.itemsize
        return np.ndarray(shape, self.numpy_dtype, numbers, offset * size, [stride * size for stride in strides])

    def _check_crc(self):
        if self.crc is None:
            return
        crc = 0
        for first in range(0, self.nbytes, PIECE_BYTES):
            length = min(PIECE_BYTES, self.nbytes - first)
            crc = zlib.crc32(self.file.array(self.begin + first, "u1", length, self.place), crc)
            if length == PIECE_BYTES:
                self.file.release_pages()  # a model may be one storage
        if crc != self.crc:
            raise CheckpointError(
                f"{self.file.path}: {self.place}: damaged: its CRC-32 is not what the ZIP directory says"
            )
        self.crc = None


class _View(NamedTuple):
    """The part of a storage that a persistent id names, in numbers."""

    storage: Storage
    begin: int
    length: int


class _Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read_rows(self, first: int, last: int) -> np.ndarray:
        """As ``LazyTensor.read_rows``."""
        numbers = self.storage.view(self.offset, self.shape or (1,), self.strides or (0,))[first:last]
        if self.storage.dtype == "BF16":
            return bf16_to_f32(numbers)
        return numbers != 0 if self.storage.dtype == "BOOL" else numbers


class Tensors:
    """The functions that a pickle of ``torch.save`` needs, for ``read_pickle``.

    find      find(kind of numbers, key, how many, view) -> (storage, begin, length); ``view`` is None if the persistent
              ids have no such field
    fields    how many fields they have after the word "storage": 4, or 5 with the view
    """

    def __init__(self, find, fields: int):
        self.find = find
        self.fields = fields
        self.made = {}  # {_Tensor: LazyTensor}, so that the same tensor is known by being the same object
        self.allowed = {
            **ORDERED_DICT,
            "torch._utils._rebuild_tensor_v2": Function(self.rebuild_tensor),
            "torch._utils._rebuild_parameter": Function(self.rebuild_parameter),
            **{name: StorageType(name) for name in STORAGE_TYPES},
        }

    def load_storage(self, key) -> _View:
        if not isinstance(key, tuple) or len(key) != 1 + self.fields or not isinstance(key[0], str):
            raise CheckpointError("a storage must be named by a tuple of its type, key, device and length")
        word, kind, name, device, count, *view = key
        if word != "storage":
            raise CheckpointError(f"something outside the pickle that is a {word[:100]!r}, not a storage")
        if not isinstance(kind, StorageType) or not isinstance(name, str) or not isinstance(device, str):
            raise CheckpointError("a storage must be named by its type, and strings for its key and device")
        _check_sizes((count,), "a storage's length")
        return _View(*self.find(kind.name, name, count, *(view or [None])))

    def rebuild_tensor(self, arguments: tuple) -> LazyTensor:
        if not 6 <= len(arguments) <= 7:
            raise CheckpointError(f"_rebuild_tensor_v2 with {len(arguments)} arguments")
        view, offset, shape, strides, requires_grad, hooks, *metadata = arguments
        if not isinstance(view, _View):
            raise CheckpointError("a tensor without a storage")
        _check_sizes((offset,), "a tensor's offset")
        _check_sizes(shape, "a tensor's size")
        _check_sizes(strides, "a tensor's stride")
        _check_gradient(view.storage.dtype, requires_grad, hooks)
        if metadata and metadata != [{}] and metadata != [None]:
            raise CheckpointError("a tensor with metadata, such as one that is negated when it is looked at")
        return self._stored(view, offset, shape, strides)

    def rebuild_parameter(self, arguments: tuple) -> LazyTensor:
        if len(arguments) != 3 or not isinstance(arguments[0], LazyTensor):
            raise CheckpointError("a parameter without a tensor")
        tensor, *how = arguments
        _check_gradient(tensor.dtype, *how)
        return tensor

    def _stored(self, view: _View, offset: int, shape: tuple, strides: tuple) -> LazyTensor:
        if len(shape) != len(strides):
            raise CheckpointError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
        storage = view.storage
        if storage.numpy_dtype.itemsize * prod(max(size, 1) for size in shape) >= 2**63:  # NumPy's limit
            raise CheckpointError(f"a tensor of size {reprlib.repr(shape)} is too large")
        count = prod(shape)
        # The stride of an axis of size 1 is never used, and PyTorch leaves anything there.
        strides = tuple(stride if size > 1 and count else 0 for size, stride in zip(shape, strides, strict=True))
        last = offset - 1
        if count:
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if last >= view.length or count > view.length:
            raise CheckpointError(
                f"a tensor of size {reprlib.repr(shape)} and stride {reprlib.repr(strides)} from number "
                f"{reprlib.repr(offset)} on, in a storage of {view.length:,} numbers"
            )
        tensor = _Tensor(storage, view.begin + offset, shape, strides)
        if tensor not in self.made:
            if len(shape) == 2 and 0 < strides[0] < strides[1]:  # it lies in the file column by column
                transposed = tensor._replace(shape=shape[::-1], strides=strides[::-1])
                self.made[tensor] = LazyTensor(transposed.shape, storage.dtype, transposed.read_rows).T
            else:
                self.made[tensor] = LazyTensor(shape, storage.dtype, tensor.read_rows)
        return self.made[tensor]


def _check_sizes(values, what: str) -> None:
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS:
        found = f"{len(values):,}" if isinstance(values, tuple) else short_repr(values)
        raise CheckpointError(f"{what} must be a tuple of up to {MAX_DIMENSIONS} numbers, not {found}")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:  # True is not a number here
            raise CheckpointError(f"{what} must be a whole number of at least 0, not {short_repr(value)}")


def _check_gradient(dtype: str, requires_grad, hooks) -> None:
    if type(requires_grad) is not bool or (requires_grad and dtype not in FLOATS):
        raise CheckpointError(f"a tensor of {dtype} with requires_grad = {short_repr(requires_grad)}")
    if not isinstance(hooks, OrderedDict) or hooks:
        raise CheckpointError("a tensor with hooks, which are programs")
