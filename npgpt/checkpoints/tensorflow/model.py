"""OpenAI's release of GPT-2: a folder that TensorFlow 1 wrote, and in which fine-tuning with their code leaves more.

    hparams.json                        {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    checkpoint                          text; its line model_checkpoint_path: "model.ckpt" says which one is current.
                                        Of a path that begins with / the name counts: the folder may have been moved
    model.ckpt.index                    a table (leveldb.py) with a record for each tensor; "" is the header's key
    model.ckpt.data-00000-of-00001      the elements, C order, little-endian; there may be several such shards
    model.ckpt.meta, encoder.json, vocab.bpe     the graph, and the tokenizer, which is known; not read

The index's checksums are always checked; a tensor's is when its elements are first asked for, on the mapped file.

Source: github.com/openai/gpt-2, src/model.py (names, shapes); tensorflow/core/protobuf/tensor_bundle.proto and
tensorflow/core/framework/{types,tensor_shape}.proto (the records).
"""

import re
import reprlib
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.checkpoints.shared.checkpoint import Checkpoint, config_of
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, lazy_array
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import to_ours
from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.checkpoints.shared.tokenizers import beside, by_size
from npgpt.checkpoints.shared.validate import check_shares_nothing
from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked
from npgpt.checkpoints.tensorflow.leveldb import read_table
from npgpt.checkpoints.tensorflow.protobuf import BYTES, FIXED32, VARINT, parse_message
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError

NAMES = (
    ("model/wte", "wte.weight"),
    ("model/wpe", "wpe.weight"),
    ("model/h{}/ln_1/g", "h.{}.ln_1.weight"),
    ("model/h{}/ln_1/b", "h.{}.ln_1.bias"),
    ("model/h{}/attn/c_attn/w", "h.{}.attn.c_attn.weight"),  # [1, in, out]: a convolution of width 1
    ("model/h{}/attn/c_attn/b", "h.{}.attn.c_attn.bias"),
    ("model/h{}/attn/c_proj/w", "h.{}.attn.c_proj.weight"),
    ("model/h{}/attn/c_proj/b", "h.{}.attn.c_proj.bias"),
    ("model/h{}/ln_2/g", "h.{}.ln_2.weight"),
    ("model/h{}/ln_2/b", "h.{}.ln_2.bias"),
    ("model/h{}/mlp/c_fc/w", "h.{}.mlp.c_fc.weight"),
    ("model/h{}/mlp/c_fc/b", "h.{}.mlp.c_fc.bias"),
    ("model/h{}/mlp/c_proj/w", "h.{}.mlp.c_proj.weight"),
    ("model/h{}/mlp/c_proj/b", "h.{}.mlp.c_proj.bias"),
    ("model/ln_f/g", "ln_f.weight"),
    ("model/ln_f/b", "ln_f.bias"),
)
# GPTConfig's field, and its key in hparams.json. All are in OpenAI's files; nothing else is.
_FIELDS = {"vocab_size": "n_vocab", "block_size": "n_ctx", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
# Saved beside the weights by training: the optimizer's moments, counters.
_NOT_WEIGHTS = re.compile(r"(?!model/).*|model/.*/Adam(_1)?")

HPARAMS_FILE, CHECKPOINT_FILE = "hparams.json", "checkpoint"
RELEASED = "model.ckpt"  # the prefix of the released files' names
MAX_DIMENSIONS = 32

_DTYPES = {1: ("F32", "<f4"), 2: ("F64", "<f8"), 14: ("BF16", "<u2"), 19: ("F16", "<f2")}  # types.proto's numbers

_HEADER = {1: ("num_shards", VARINT), 2: ("endianness", VARINT), 3: ("version", BYTES)}
_ENTRY = {
    1: ("dtype", VARINT),
    2: ("shape", BYTES),
    3: ("shard_id", VARINT),
    4: ("offset", VARINT),
    5: ("size", VARINT),
    6: ("crc32c", FIXED32),
    7: ("slices", BYTES),
}
_SHAPE = {2: ("dim", BYTES)}
_DIM = {1: ("size", VARINT)}


class _Entry(NamedTuple):
    """A tensor's record in the index; offset and size are bytes of its shard."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read(file: MappedFile) -> Checkpoint:
    """Open the checkpoint of an .index file, beside which hparams.json is. Raises CheckpointError."""
    index = file.path
    if index.suffix != ".index":
        raise CheckpointError(f"{index}: an index, whose name must end with .index: its data are in files named alike")
    config = _config(index.with_name(HPARAMS_FILE))
    entries, ignored_keys, shard_count = _read_index(file)
    name = f"{index.with_suffix('')}.data-{{:05d}}-of-{shard_count:05d}"
    shards = {number: MappedFile(name.format(number)) for number in sorted({entry.shard for entry in entries})}
    stored = {entry.name: _stored(shards[entry.shard], entry) for entry in entries}
    check_shares_nothing(stored, shards.values(), index)
    tensors = to_ours(NAMES, stored, index)
    kind = f"{shard_count} shard{'s' if shard_count > 1 else ''}"
    format, tokenizer = f"OpenAI's TensorFlow ({kind})", beside(index, by_size(config.vocab_size))
    return Checkpoint(format, config, tensors, index, tuple(shards.values()), tuple(ignored_keys), tokenizer)


def current_index(folder: Path) -> Path:
    """The index of OpenAI's folder: the one that ``checkpoint`` names, else model.ckpt's. Raises CheckpointError."""
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return folder / f"{RELEASED}.index"
    file = MappedFile(path)
    text = file.take(0, min(file.size, 100_000), "text")
    lines = re.findall(rb'^model_checkpoint_path: *"(?:/.*/|/)?([\w. =+-]{1,200})"\r?$', text, re.MULTILINE)
    if len(lines) != 1:
        raise CheckpointError(f'{path}: one line model_checkpoint_path: "NAME" was expected, not {len(lines)}')
    return folder / f"{lines[0].decode()}.index"


def _config(path: Path) -> GPTConfig:
    values = read_json_object(path)
    if values.keys() != set(_FIELDS.values()):
        odd = sorted(values.keys() ^ set(_FIELDS.values()))[0]
        raise CheckpointError(f"{path}: {odd[:100]!r} is {'unknown' if odd in values else 'missing'}")
    return config_of({field: values[key] for field, key in _FIELDS.items()}, f"{path}:", _FIELDS)


def _read_index(file: MappedFile) -> tuple[list[_Entry], list[str], int]:
    """-> the weights' records, the names of what else is there, and the number of shards."""
    path = file.path
    records = read_table(file)
    key, value = next(records, (None, b""))
    if key != b"":
        raise CheckpointError(f"{path}: its first key is not the header's")
    found = parse_message(value, _HEADER, f"{path}: header")
    if found.get("endianness"):
        raise CheckpointError(f"{path}: header: big-endian, and only little-endian files are read")
    shard_count = found.get("num_shards", 0)
    entries, ignored_keys = [], []
    for key, value in records:
        place = f"{path}: tensor {key[:100]!r}"
        name = key.decode("ascii", "backslashreplace")
        if _NOT_WEIGHTS.fullmatch(name):
            ignored_keys.append(name)
        else:
            entries.append(_entry(name, value, shard_count, place))
    return entries, ignored_keys, shard_count


def _entry(name: str, data: bytes, shard_count: int, place: str) -> _Entry:
    """Check all that can be said about one tensor by itself."""
    found = parse_message(data, _ENTRY, place)
    if "slices" in found:
        raise CheckpointError(f"{place}: it is stored in slices, which are not read here")
    dtype = found.get("dtype", 0)
    if dtype not in _DTYPES:
        raise CheckpointError(f"{place}: data type {dtype} is not one of {_DTYPES}")
    dims = parse_message(found.get("shape", b""), _SHAPE, f"{place}: shape", "dim")["dim"][: MAX_DIMENSIONS + 1]
    shape = tuple(parse_message(dim, _DIM, f"{place}: shape").get("size", 0) for dim in dims)
    if len(shape) > MAX_DIMENSIONS or prod(max(size, 1) for size in shape) >= 2**60:  # a negative one is beyond 2**63
        raise CheckpointError(f"{place}: the shape {reprlib.repr(shape)} can't be")
    shard, offset, size = (found.get(field, 0) for field in ("shard_id", "offset", "size"))
    if shard >= shard_count:
        raise CheckpointError(f"{place}: in shard {shard:,}, and there are {shard_count}, from 0 on")
    word, numpys = _DTYPES[dtype]
    expected = prod(shape) * np.dtype(numpys).itemsize
    if size != expected:
        raise CheckpointError(f"{place}: {size:,} bytes, and {word} {reprlib.repr(shape)} takes {expected:,}")
    return _Entry(name, word, shape, shard, offset, size, found.get("crc32c", 0))


def _stored(file: MappedFile, entry: _Entry) -> LazyTensor:
    data = file.array(entry.offset, np.uint8, entry.size, f"tensor {entry.name[:100]!r}")
    width_1 = entry.name.endswith("/w") and len(entry.shape) == 3 and entry.shape[0] == 1
    shape = entry.shape[1:] if width_1 else entry.shape
    unchecked = lazy_array(data.view(dict(_DTYPES.values())[entry.dtype]).reshape(shape), entry.dtype)

    @cache
    def check():
        if masked(crc32c(data)) != entry.crc:
            raise CheckpointError(f"{file.path}: tensor {entry.name[:100]!r}: its checksum is not the index's")

    def read_rows(first, last):
        check()
        return unchecked.read_rows(first, last)

    return replace(unchecked, read_rows=read_rows)
