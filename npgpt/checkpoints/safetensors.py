"""The safetensors format, read and written with NumPy alone.

    8 bytes     N, the header's length, little-endian
    N bytes     JSON: {"wte.weight": {"dtype": "F32", "shape": [50257, 768], "data_offsets": [begin, end]}, ...,
                "__metadata__": {string: string}}; padded with spaces so that the data starts at a multiple of 8
    the rest    the arrays, C order, little-endian, one after the other; offsets count from the data's start

Nothing in a file is believed: each number in the header is checked against the file before an array is made, and
whatever is wrong is one CheckpointError that names the file and the place. A key given twice or an unknown field is
refused, so every file that is read here means the same to the reference reader.

The format has no type for blocks (shared/blocks.py). Ours are the bytes of a U8 matrix, and one string of the metadata
says what is in them, which other readers leave alone:

    "npgpt_blocks": '{"wte.weight": ["Q8_0", [50257, 768]], ...}'       type and shape of the matrix

Each row of the matrix is filled up with zeros to whole blocks, so wte.weight above is a U8 of shape (50257, 24 * 34).

Source: https://github.com/huggingface/safetensors, README "Format" and safetensors/src/tensor.rs.
"""

import json
import reprlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.checkpoints.formats import MAX_HEADER_BYTES
from npgpt.checkpoints.shared.atomic import checkpoint_file
from npgpt.checkpoints.shared.blocks import BLOCKS, ELEMENTS, dequantize, quantize
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, lazy_array
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.errors import CheckpointError
from npgpt.kernels.bfloat16 import f32_to_bf16

MAX_DIMENSIONS = 32
BLOCK_TYPES = ("Q8_0", "Q4_0")
_BLOCKS_KEY = "npgpt_blocks"

# In the order in which the reference writer lays arrays out: wide types first, so that every array is aligned.
_DTYPES: dict[str, np.dtype] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: these are its bits
    "F16": np.dtype("<f2"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_ORDER = {name: place for place, name in enumerate(_DTYPES)}


class _Entry(NamedTuple):
    """One array's entry in the header; begin and end are bytes from the data's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def open_safetensors(file: MappedFile) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Return the tensors by name, and the file's metadata. Raises CheckpointError."""
    path = file.path
    length = int.from_bytes(file.take(0, 8, "header length"), "little")
    _check_header_length(length, file.size, path)
    # Its length is limited beside the file's, so the number of its items need not be.
    header = parse_json(file.take(8, length, "header"), f"{path}: header", max_items=length)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: header: a JSON object was expected, not {reprlib.repr(header)}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__: an object of strings was expected, not {reprlib.repr(metadata)}")
    entries = [_check_entry(name, entry, path) for name, entry in header.items()]
    _check_layout(entries, file.size - 8 - length, path)
    tensors = {}
    for name, dtype, shape, begin, _ in entries:
        array = file.array(8 + length + begin, _DTYPES[dtype], prod(shape), f"tensor {name[:200]!r}")
        tensors[name] = lazy_array(array.reshape(shape), dtype)
    return tensors | _tensors_in_blocks(tensors, metadata.pop(_BLOCKS_KEY, "{}"), path), metadata


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays by name, and the file's metadata.

    An array is a read-only view of the mapped file. Its values stay when ``write_safetensors`` replaces the file (not
    when another program changes it in place). BF16 and blocks are made float32 in memory. Raises CheckpointError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_safetensors(f"{folder}/a", {"x": np.arange(3)}, {"note": "b"})
    ...     read_safetensors(f"{folder}/a")
    ({'x': array([0, 1, 2])}, {'format': 'pt', 'note': 'b'})
    """
    tensors, metadata = open_safetensors(MappedFile(path))
    return {name: tensor.numpy() for name, tensor in tensors.items()}, metadata


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray | LazyTensor], metadata: dict[str, str] | None = None
) -> None:
    """Write the tensors, atomically, each in its dtype; BF16 and BLOCK_TYPES only from a ``LazyTensor``.

    NumPy has none of these, so such a tensor gives float32, which is rounded here. Only matrices can be in blocks.

    At most one tensor is copied at a time (if it is transposed). The same tensors and metadata give the same bytes,
    those of the reference writer (metadata keys, whose order is random there, are sorted). ``"format": "pt"`` is added,
    because some readers insist on it. Raises CheckpointError if an element has no place in blocks, or the file can't be
    written.
    """
    found = {name: t if isinstance(t, LazyTensor) else lazy_array(np.asarray(t)) for name, t in tensors.items()}
    for name, tensor in found.items():
        if tensor.dtype not in (*_DTYPES, *BLOCK_TYPES):
            raise CheckpointError(f"{path}: tensor {name!r}: {tensor.dtype} can't be written as safetensors")
    stored = {name: _stored_as(tensor.dtype, tensor.shape) for name, tensor in found.items()}
    blocks = {name: [tensor.dtype, tensor.shape] for name, tensor in found.items() if tensor.dtype in BLOCK_TYPES}
    texts = {"format": "pt", **(metadata or {})}
    if blocks:
        texts[_BLOCKS_KEY] = json.dumps(blocks, sort_keys=True)
    header: dict[str, dict] = {"__metadata__": dict(sorted(texts.items()))}
    ordered = sorted(found, key=lambda name: (_ORDER[stored[name][0]], name))
    end = 0
    for name in ordered:
        dtype, shape = stored[name]
        begin, end = end, end + prod(shape) * _DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    _check_header_length(len(encoded), 8 + len(encoded) + end, path)
    with checkpoint_file(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in ordered:
            for elements in found[name].iter_flat():
                file.write(_bits(elements, found[name].dtype, f"{path}: tensor {name}").data)


def _stored_as(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of a tensor as the header has them."""
    if dtype not in BLOCK_TYPES:
        return dtype, shape
    rows, columns = shape
    return "U8", (rows, -(-columns // ELEMENTS[dtype]) * BLOCKS[dtype].itemsize)


def _bits(elements: np.ndarray, dtype: str, place: str) -> np.ndarray:
    """Elements, or whole rows for blocks, as the file has them."""
    if dtype not in BLOCK_TYPES:
        return np.ascontiguousarray(f32_to_bf16(elements) if dtype == "BF16" else elements, _DTYPES[dtype])
    try:
        return quantize(np.pad(elements, ((0, 0), (0, -elements.shape[1] % ELEMENTS[dtype]))), dtype)
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from None


def _tensors_in_blocks(tensors: dict[str, LazyTensor], text: str, path) -> dict[str, LazyTensor]:
    """Those of the tensors that are matrices in blocks, as such. ``text`` is the metadata's, and a stranger's."""
    source = f"{path}: __metadata__ {_BLOCKS_KEY}"
    matrices = parse_json(text, source)
    if not isinstance(matrices, dict):
        raise CheckpointError(f"{source}: a JSON object was expected, not {reprlib.repr(matrices)}")
    found = {}
    for name, matrix in matrices.items():
        place = f"{source}: tensor {name[:200]!r}"
        match matrix:
            case [str(dtype), [rows, columns]] if type(rows) is type(columns) is int and min(rows, columns) > 0:
                pass
            case _:
                raise CheckpointError(f"{place}: a type and a matrix's shape were expected, not {reprlib.repr(matrix)}")
        if dtype not in BLOCK_TYPES:
            raise CheckpointError(f"{place}: type {reprlib.repr(dtype)} is not one of {', '.join(BLOCK_TYPES)}")
        if name not in tensors:
            raise CheckpointError(f"{place} is not there")
        stored = tensors[name]
        if (stored.dtype, stored.shape) != _stored_as(dtype, (rows, columns)):
            shape = reprlib.repr(stored.shape)
            raise CheckpointError(f"{place}: {reprlib.repr(matrix)} doesn't fit its {stored.dtype} of shape {shape}")
        found[name] = _in_blocks(stored, dtype, (rows, columns))
    return found


def _in_blocks(stored: LazyTensor, dtype: str, shape: tuple[int, int]) -> LazyTensor:
    def read_rows(first, last):
        return dequantize(stored.read_rows(first, last).view(BLOCKS[dtype]), dtype)[:, : shape[1]]

    return LazyTensor(shape, dtype, read_rows)


def _check_header_length(length: int, file_bytes: int, path) -> None:
    place = f"{path}: header length: {length:,} bytes"
    if length > MAX_HEADER_BYTES or 8 + length > file_bytes:
        raise CheckpointError(f"{place}, in a file of {file_bytes:,}: it is cut off, or not safetensors")
    # A tensor takes about 100 bytes here. Parsed, JSON takes up to thirty times its size, so a header that is most of
    # the file would be a cheap way to fill the memory.
    if length > max(1_000_000, file_bytes // 10):
        raise CheckpointError(f"{place} are too many for a file of {file_bytes:,}")


def _check_entry(name: str, entry, path) -> _Entry:
    """Check all that can be said about one array by itself: fields, dtype, shape, and that they match the bytes."""
    place = f"{path}: tensor {name[:200]!r}"
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **others} if not others:
            pass
        case _:
            raise CheckpointError(f"{place}: dtype, shape and data_offsets were expected, not {reprlib.repr(entry)}")
    if dtype not in _DTYPES:
        raise CheckpointError(f"{place}: dtype {reprlib.repr(dtype)} is not one of {', '.join(_DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):  # nor true and false
        raise CheckpointError(f"{place}: whole numbers of at least 0 were expected, not {reprlib.repr(entry)}")
    itemsize = _DTYPES[dtype].itemsize
    # NumPy's limits, for an array with an axis of size 0 too
    if len(shape) > MAX_DIMENSIONS or itemsize * prod(max(size, 1) for size in shape) >= 2**63:
        raise CheckpointError(f"{place}: shape: {reprlib.repr(shape)} is too large")
    if end - begin != itemsize * prod(shape):
        takes = f"{dtype} {reprlib.repr(shape)} takes {itemsize * prod(shape)} bytes"
        raise CheckpointError(f"{place}: data_offsets: {reprlib.repr([begin, end])}, and {takes}")
    return _Entry(name, dtype, tuple(shape), begin, end)


def _check_layout(entries: list[_Entry], nbytes: int, path) -> None:
    """Check that the arrays follow one another from the first byte to the last: no hole, no overlap, nothing after."""
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            where = f"it begins at {reprlib.repr(entry.begin)}, and the one before ends at {position}"
            raise CheckpointError(f"{path}: tensor {entry.name[:200]!r}: data_offsets: {where}")
        position = entry.end
    if position != nbytes:
        what = "cut off" if position > nbytes else "longer than its header says"
        raise CheckpointError(f"{path}: data: {nbytes:,} bytes, and the header describes {position:,}: it is {what}")
