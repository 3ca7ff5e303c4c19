"""Adapters at a path, and the checkpoint that an adapter makes of its base.

A run that trains an adapter stores the adapter alone. The metadata of its files says what it is, and where its base is:

    "npgpt_adapter": '{"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": [...],
                       "base": PATH or NAME, "checksum": SHA-256 of the base's files, "base_format": "f32" or "nf4"}'

and its arrays are "h.0.attn.c_attn.lora.A" (in, r) and "....lora.B" (r, out).
"""

import hashlib
import json
import re
import reprlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.adapters.adapter import Adapter, LoRAConfig
from npgpt.adapters.matrices import LAYER, read_matrices
from npgpt.adapters.peft import CONFIG_FILE, WEIGHTS_FILE, read_peft
from npgpt.adapters.quantized import as_quantized
from npgpt.checkpoints import run_states, runs
from npgpt.checkpoints.safetensors import open_safetensors
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.checksums import check_tensor, check_texts
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.checkpoints.shared.tokenizers import read_tokenizer
from npgpt.config import BASE_FORMATS
from npgpt.errors import CheckpointError, CheckpointWarning, ConfigError

METADATA_KEY = "npgpt_adapter"
PIECE = 16 << 20  # bytes of a file that are read at a time
_NAMES = re.compile(rf"({LAYER})\.lora\.([AB])", re.ASCII)


def find_adapter(path: str | Path, checkpoint: str = "last") -> Adapter | None:
    """The adapter at a path: of a run that trained one, or peft's, a folder or its file. None if it is something else.

    checkpoint  of a run, "last" or "best"

    Raises CheckpointError if it is damaged, or does what npgpt doesn't compute.
    """
    path = Path(path)
    if path.is_dir():
        if runs.is_run(path):
            trains_one = runs.read_run_config(path)[1].get("lora_rank") is not None
            return run_states.first_whole(path, checkpoint, _of_file) if trains_one else None
        return read_peft(path) if (path / CONFIG_FILE).exists() else None
    if path.name == WEIGHTS_FILE and path.with_name(CONFIG_FILE).exists():
        return read_peft(path.parent)
    return _of_file(path)


def _of_file(path: Path) -> Adapter | None:
    file = MappedFile(path)
    if file.format().name != "safetensors":
        return None
    tensors, metadata = open_safetensors(file)
    return _of_run(file, tensors, metadata) if METADATA_KEY in metadata else None


def open_adapter(path: str | Path, checkpoint: str = "last") -> Adapter:
    """As ``find_adapter``. Raises CheckpointError if there is none at this path."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder: name a run that trained an adapter, or peft's")
    adapter = find_adapter(path, checkpoint)
    if adapter is None:
        raise CheckpointError(f"{path} is no adapter: neither a run with --lora-rank nor a folder with {CONFIG_FILE}")
    return adapter


def arrays_of(adapter: Adapter) -> dict[str, np.ndarray]:
    """The arrays as a run stores them."""
    found = {}
    for layer, (A, B) in adapter.matrices.items():
        found |= {f"{layer}.lora.A": A, f"{layer}.lora.B": B}
    return found


def metadata_of(adapter: Adapter) -> dict[str, str]:
    """What a run's files say of the adapter in them."""
    config = adapter.config
    values = {"rank": config.rank, "alpha": config.alpha, "dropout": config.dropout, "targets": list(config.targets)}
    values |= {"base": adapter.base, "checksum": adapter.checksum, "base_format": adapter.base_format}
    return {METADATA_KEY: json.dumps(values)}


def _of_run(file: MappedFile, tensors: Mapping[str, LazyTensor], metadata: dict[str, str]) -> Adapter:
    source, sums = f"{file.path}: __metadata__ {METADATA_KEY}", check_texts(metadata, file.path)
    match parse_json(metadata[METADATA_KEY], source):
        case {
            "rank": rank, "alpha": alpha, "dropout": dropout, "targets": list(targets), "base": str(base),
            "checksum": str(checksum), "base_format": str(format), **others,
        } if not others and format in BASE_FORMATS and all(isinstance(target, str) for target in targets):  # fmt: skip
            pass
        case values:
            raise CheckpointError(f"{source}: an adapter's description was expected, not {reprlib.repr(values)}")
    try:
        config = LoRAConfig.from_file(rank, alpha, dropout, targets)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {str(error)[:200]}") from None
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(runs.OPTIMIZER)}
    for name, tensor in own.items():
        check_tensor(name, tensor.numpy(), sums, file.path)
    return Adapter(config, read_matrices(own, _NAMES, rank, file.path), base, checksum, format, file.path)


def checksum_of(checkpoint: Checkpoint) -> str:
    """SHA-256 of the checkpoint's files, one after the other; some 0.3 s for 500 MB."""
    digest = hashlib.sha256()
    for file in checkpoint.files:
        for begin in range(0, file.size, PIECE):
            digest.update(file.take(begin, min(PIECE, file.size - begin), "content"))
            file.release_pages()
    return digest.hexdigest()


def open_base(adapter: Adapter, open_checkpoint: Callable[[str], Checkpoint]) -> Checkpoint:
    """The model that an adapter was trained beside.

    Raises CheckpointError if it is unknown, isn't where it was, or has changed since.
    """
    if adapter.base is None:
        raise CheckpointError(f"{adapter.source}: the adapter doesn't say which model it belongs to: name that as well")
    try:
        base = open_checkpoint(adapter.base)
    except CheckpointError as error:
        raise CheckpointError(f"{adapter.source}: its base can't be opened: {error}") from None
    if adapter.checksum is not None and checksum_of(base) != adapter.checksum:
        raise CheckpointError(
            f"{adapter.source}: its base {base.source} has changed since the adapter was trained beside it:\n"
            f"put the old one back, or name a base yourself: python -m npgpt.sample --model BASE --adapter PATH"
        )
    return base


def check_named_base(adapter: Adapter, base: Checkpoint) -> None:
    """For a base that the user names. Warns if its weights are not those that the adapter was trained beside.

    Raises CheckpointError if its tokens are others than those of the adapter's run.
    """
    run = adapter.source and adapter.source.parent
    own = read_tokenizer(run / runs.TOKENIZER_FILE) if run and runs.is_run(run) else None
    if own and base.tokenizer and own.to_dict() != base.tokenizer.to_dict():
        raise CheckpointError(f"{base.source}: its tokens are others than those of the adapter {adapter.source}")
    if adapter.checksum is not None and checksum_of(base) != adapter.checksum:
        said = f"{adapter.source} was trained beside another model than {base.source}: the texts may be bad"
        warnings.warn(said, CheckpointWarning, stacklevel=2)


def with_adapter(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The model that the adapter makes of this base: W + s A B in place of W, computed when it is read.

    A base that was held in NF4 in training is rounded to it here too, so this is the model that was trained.
    Raises CheckpointError if the adapter doesn't fit.
    """
    try:
        adapter.check(base.config)
    except ConfigError as error:
        raise CheckpointError(f"{adapter.source}: {error}: it is another model's") from None
    tensors = as_quantized(base) if adapter.base_format == "nf4" else dict(base.tensors)
    for layer, (A, B) in adapter.matrices.items():
        name = f"{layer}.weight"
        tensors[name] = _plus(tensors[name], A, B * np.float32(adapter.config.scale))
    found = f"adapter of rank {adapter.config.rank} beside {base.format}"
    own = () if adapter.source is None else (MappedFile(adapter.source),)
    source = base.source if adapter.source is None else adapter.source
    return replace(base, format=found, tensors=tensors, source=source, files=(*base.files, *own))


def _plus(W: LazyTensor, A: np.ndarray, B: np.ndarray) -> LazyTensor:
    """W + A B"""
    left, right = (B.T, A.T) if W.transposed else (A, B)

    def read_rows(first, last):
        return W.read_rows(first, last) + left[first:last] @ right

    return replace(W, dtype="F64" if W.dtype == "F64" else "F32", read_rows=read_rows)
