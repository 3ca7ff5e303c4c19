"""The GGUF file format, version 3, read and written with NumPy alone; what the tensors mean is told by model.py.

    "GGUF", u32 version, u64 number of tensors, u64 number of keys
    the keys        metadata.py
    each tensor     string name, u32 number of axes, u64 size of each axis (the fastest first: NumPy's shape backwards),
                    u32 type, u64 offset
    padding         to a multiple of the key general.alignment, or 32; the offsets count from there
    the tensors     each at such a multiple too, C order; blocks (shared/blocks.py) lie along the last axis of NumPy's

All numbers are little-endian. (Version 2 differs from 3 only in that it is never big-endian.)

Source: docs/gguf.md in github.com/ggml-org/ggml, ggml/src/gguf.cpp in github.com/ggml-org/llama.cpp.
"""

import struct
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.checkpoints.formats import GGUF_MAGIC as MAGIC
from npgpt.checkpoints.gguf.metadata import Metadata, packed_metadata, packed_strings, read_metadata, read_name
from npgpt.checkpoints.shared.atomic import checkpoint_file
from npgpt.checkpoints.shared.blocks import BLOCKS, ELEMENTS, dequantize, quantize
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, lazy_array
from npgpt.checkpoints.shared.mmap_file import Cursor, MappedFile
from npgpt.checkpoints.shared.validate import check_shares_nothing
from npgpt.errors import CheckpointError

ALIGNMENT = 32
MAX_TENSORS = 10_000  # gpt2-xl has 580
MAX_NAME_BYTES = 64  # the format's own limit, as is the next
MAX_AXES = 4

_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 14: "Q6_K", 28: "F64", 30: "BF16"}
_NUMBERS = {type: number for number, type in _TYPES.items()}
_DTYPES = {type: np.dtype(word) for type, word in (("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"), ("BF16", "<u2"))}
_ITEMS = {**_DTYPES, **BLOCKS}  # the elements or blocks that a row consists of
# Of those that we don't read, the ones that files of language models have.
_OTHER_TYPES = {10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 16: "IQ2_XXS"}
_OTHER_TYPES |= {17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"}


class _Info(NamedTuple):
    """A tensor's entry in the file; its offset in bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int


def read_tensors(file: MappedFile) -> tuple[dict[str, LazyTensor], Metadata]:
    """Return the tensors by name, and the metadata of a file that begins as GGUF does. Raises CheckpointError."""
    cursor = Cursor(file, 4)
    version = cursor.number("<u4", "version")
    if version not in (2, 3):
        what = "a big-endian file" if version and version % 2**16 == 0 else f"version {version}"
        raise CheckpointError(f"{file.path}: version: this is {what}, and npgpt reads versions 2 and 3, little-endian")
    n_tensors = cursor.number("<u8", "number of tensors")
    if n_tensors > MAX_TENSORS:
        raise CheckpointError(f"{file.path}: number of tensors: {n_tensors:,}, and npgpt reads up to {MAX_TENSORS:,}")
    metadata = read_metadata(cursor, cursor.number("<u8", "number of keys"))
    infos = [_read_info(cursor, number) for number in range(n_tensors)]
    alignment = ALIGNMENT
    if "general.alignment" in metadata:
        alignment = int(metadata.number("general.alignment", "uint32"))
        if alignment == 0 or alignment & (alignment - 1):
            raise CheckpointError(f"{file.path}: key general.alignment: {alignment:,} is not a power of two")
    return _stored(file, infos, _padded(cursor.position, alignment)), metadata


def _read_info(cursor: Cursor, number: int) -> _Info:
    """Read and check all that can be said about one tensor by itself."""
    name = read_name(cursor, MAX_NAME_BYTES, f"tensor {number + 1}")
    what = f"tensor {name!r}"
    place = f"{cursor.file.path}: {what}"
    n_axes = cursor.number("<u4", what)
    if not 1 <= n_axes <= MAX_AXES:
        raise CheckpointError(f"{place}: {n_axes:,} axes, and 1 to {MAX_AXES} were expected")
    shape = tuple(cursor.array("<u8", n_axes, what).tolist()[::-1])
    if min(shape) == 0 or prod(shape) >= 2**60:  # the bytes are below NumPy's limit then
        raise CheckpointError(f"{place}: it can't be of shape {shape}")
    number = cursor.number("<u4", what)
    if number not in _TYPES:
        type = _OTHER_TYPES.get(number, f"of type {number}")
        raise CheckpointError(
            f"{place} is {type}, and npgpt reads {', '.join(_TYPES.values())}.\n"
            "llama.cpp writes it as one of these: llama-quantize --allow-requantize FILE NEW.gguf Q8_0"
        )
    type = _TYPES[number]
    if shape[-1] % ELEMENTS.get(type, 1):
        raise CheckpointError(f"{place}: rows of {shape[-1]:,} elements are no whole blocks of {type}")
    return _Info(name, type, shape, cursor.number("<u8", what))


def _stored(file: MappedFile, infos: list[_Info], start: int) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    for info in infos:
        if info.name in found:
            raise CheckpointError(f"{file.path}: tensor {info.name!r} is there twice")
        shape = (*info.shape[:-1], info.shape[-1] // ELEMENTS.get(info.type, 1))
        array = file.array(start + info.offset, _ITEMS[info.type], prod(shape), f"tensor {info.name!r}").reshape(shape)
        found[info.name] = lazy_array(array, info.type) if info.type in _DTYPES else _blocks(info, array)
    check_shares_nothing(found, (file,), file.path)
    return found


def _blocks(info: _Info, blocks: np.ndarray) -> LazyTensor:
    return LazyTensor(info.shape, info.type, lambda first, last: dequantize(blocks[first:last], info.type))


def write_gguf_file(path: str | Path, metadata: dict, tensors: dict[str, tuple[LazyTensor, str]]) -> None:
    """Write the tensors, each as the type with it ("F32", "F16", or one that ``quantize`` has), atomically.

    metadata    see ``packed_metadata``

    At most one tensor is copied at a time (if it is transposed). The same input gives the same bytes. Raises
    CheckpointError if an element has no place in its type, or the file can't be written.
    """
    header = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata)), packed_metadata(metadata)]
    offset = 0
    for name, (tensor, type) in tensors.items():
        axes = len(tensor.shape)
        header.append(packed_strings([name]))
        header.append(struct.pack(f"<I{axes}QIQ", axes, *tensor.shape[::-1], _NUMBERS[type], offset))
        offset += _padded(_size(type, tensor.shape))
    encoded = b"".join(header)
    with checkpoint_file(path) as file:
        file.write(encoded.ljust(_padded(len(encoded)), b"\0"))
        for name, (tensor, type) in tensors.items():
            for rows in tensor.iter_flat():
                file.write(_converted(rows, type, f"{path}: tensor {name}").data)
            size = _size(type, tensor.shape)
            file.write(bytes(_padded(size) - size))


def _converted(rows: np.ndarray, type: str, place: str) -> np.ndarray:
    """Rows as they are in the file."""
    if type in _DTYPES:
        return np.ascontiguousarray(rows, _ITEMS[type])
    try:
        return quantize(rows, type)
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from None


def _size(type: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor."""
    return prod(shape) // ELEMENTS.get(type, 1) * _ITEMS[type].itemsize


def _padded(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment
