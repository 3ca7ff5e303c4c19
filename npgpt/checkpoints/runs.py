"""Our own runs: the folder that training fills, ``runs/NAME/``.

    config.json         "model": its configuration; "training": the settings that were asked for; "plan": what they
                        came to, every default filled in; "products": for a precision of matrix products, the
                        way in which the machine made them. This file makes the folder a run
    tokenizer.json      the tokenizer that made the training's tokens
    metrics.jsonl       all that is measured, one JSON object a line; training/metrics.py names its kinds
    metrics.csv         its numbers for spreadsheets
    report.html         all of it to look at
    last.safetensors    everything that training goes on from: weights, optimizer, state
    step-000200.safetensors   an earlier one, after step 200. There are as many as --keep says
    best.safetensors    the weights alone, from the best evaluation so far
    adapter_config.json, adapter_model.safetensors      of a run that trains an adapter: it, for peft (adapters/peft.py)
    .lock               held by the process that trains the run, whose number is in it; training/folder.py

A lone .safetensors file of weights, which conversion writes, is like best.safetensors, with its tokenizer inside. Its
matrices may be in blocks (safetensors.py), as kernels/packed.py packs them for generating.

last.safetensors is one file so that one rename replaces all of it: weights, optimizer and state are never from
different steps. Weights are under their own names, the optimizer's arrays under "optimizer." + name; the metadata
holds the model's configuration and the state as JSON. If an adapter is trained, the weights are the adapter's alone,
and the metadata says where the model beneath it is (adapters/files.py). All are ordinary safetensors, which other tools
open too.

The metadata also holds checksums (shared/checksums.py), so that a damaged file is noticed. run_states.py chooses among
the files.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.checkpoints.huggingface.read import read_weights_file
from npgpt.checkpoints.safetensors import BLOCK_TYPES, open_safetensors, read_safetensors, write_safetensors
from npgpt.checkpoints.shared.cast import rounded
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.checksums import check_tensor, check_texts, with_checksums
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import parse_json, read_json_object
from npgpt.checkpoints.shared.tokenizers import Finder, beside, by_size, stored, unknown
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "metrics.csv"
REPORT_FILE = "report.html"
LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"

RUN_FORMAT = "npgpt run"  # config.json's "format", by which it is told from a Hugging Face one
OPTIMIZER = "optimizer."
# In the metadata of the safetensors files.
_CONFIG_KEY, _STATE_KEY, _TOKENIZER_KEY = "npgpt_config", "npgpt_state", "npgpt_tokenizer"


def read_run_config(run: str | Path) -> tuple[GPTConfig, dict, dict]:
    """Read config.json: the model's configuration, the settings that were asked for, and the plan made of them.

    The plan of a run that was made before plans were stored is empty.
    """
    path = Path(run) / CONFIG_FILE
    values = read_json_object(path)
    if values.get("format") != RUN_FORMAT:
        raise CheckpointError(f"{path}: format is not {RUN_FORMAT!r}, so the folder is not a run of npgpt")
    values.setdefault("plan", {})
    for key in ("model", "training", "plan"):
        if not isinstance(values.get(key), dict):
            raise CheckpointError(f"{path}: {key}: a JSON object was expected")
    return _config(values["model"], f"{path}: model"), values["training"], values["plan"]


def read_way_of_products(run: str | Path, precision: str) -> str | None:
    """The way in which a run makes products of this precision (kernels/precision.py). None: config.json has none."""
    path = Path(run) / CONFIG_FILE
    products = read_json_object(path).get("products", {})
    way = products.get(precision) if isinstance(products, dict) else None
    if not isinstance(products, dict) or not isinstance(way, str | None):
        raise CheckpointError(f"{path}: products: a JSON object of names was expected")
    return way


def is_run(folder: str | Path) -> bool:
    """True if the folder's config.json is that of a run. Raises CheckpointError if it can't be read."""
    path = Path(folder) / CONFIG_FILE
    return path.exists() and read_json_object(path).get("format") == RUN_FORMAT


def save_weights(
    path: str | Path,
    weights: Mapping[str, np.ndarray | LazyTensor],
    config: GPTConfig,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the weights alone, atomically; ``load`` opens the file. Raises CheckpointError."""
    texts = {_CONFIG_KEY: json.dumps(config.to_dict()), **(metadata or {})}
    write_safetensors(path, weights, with_checksums(weights, texts))


def write(path: str | Path, checkpoint: Checkpoint, dtype: str = "F32") -> None:
    """Write any checkpoint as one file of ours, weights in ``dtype``, with its tokenizer inside.

    dtype   "F32", "F16" or "BF16"; or "Q8_0" or "Q4_0": then all matrices but the positions are in blocks of it, and
            the rest is F32. The vocabulary head is no exception, as it is in llama-quantize's Q4_0. So ``Decoder``
            makes the same int8 weights of a "Q8_0" file, and int4 of a "Q4_0" one, as of the original

    Raises CheckpointError, also if the checkpoint's tokenizer is damaged.
    """
    tokenizer = None if checkpoint.tokenizer is None else checkpoint.tokenizer.to_dict()
    if dtype in BLOCK_TYPES:
        weights = rounded(checkpoint, "F32", path)
        matrices = [name for name, tensor in weights.items() if len(tensor.shape) == 2 and name != "wpe.weight"]
        weights = _turned(weights | {name: replace(weights[name], dtype=dtype) for name in matrices})
    else:
        weights = rounded(checkpoint, dtype, path)
    save_weights(path, weights, checkpoint.config, {_TOKENIZER_KEY: json.dumps(tokenizer)})


def _turned(weights: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Turn the matrices that are in blocks and (in, out), or turn them back: a block holds 32 inputs of one output.

    The embedding and the head, (V, C), have such rows as they are.
    """
    turned = (n for n, t in weights.items() if t.dtype in BLOCK_TYPES and n not in ("wte.weight", "lm_head.weight"))
    return weights | {name: weights[name].T for name in turned}


def save_checkpoint(
    path: str | Path,
    weights: dict[str, np.ndarray],
    optimizer: dict[str, np.ndarray],
    state: dict,
    config: GPTConfig,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write, atomically, everything that training goes on from. ``metadata`` is what else the file says of the weights.

    Arrays come back bit for bit, and ``state`` comes back equal: what JSON holds, and infinity. Anything else (a tuple,
    a key that is a number) is a TypeError now, rather than a difference later. Raises CheckpointError on NaN in it, and
    if the file can't be written.
    """
    text = json.dumps(state)
    if _parse_object({_STATE_KEY: text}, _STATE_KEY, path, infinity=True) != state:
        raise TypeError("state holds something that JSON changes, such as a tuple or a key that is not a string")
    arrays = {**weights, **{OPTIMIZER + name: array for name, array in optimizer.items()}}
    texts = {_CONFIG_KEY: json.dumps(config.to_dict()), _STATE_KEY: text, **(metadata or {})}
    write_safetensors(path, arrays, with_checksums(arrays, texts))


def load_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    """Return the weights, optimizer and state that ``save_checkpoint`` wrote; the arrays are views of the file.

    Raises CheckpointError, also if a bit of the file has changed since.
    """
    arrays, metadata = read_safetensors(path)
    if _STATE_KEY not in metadata:
        raise CheckpointError(f"{path}: __metadata__ has no {_STATE_KEY}, so training can't go on from this file")
    sums = check_texts(metadata, path)
    for name, array in arrays.items():
        check_tensor(name, array, sums, path)
    names = [name for name in arrays if name.startswith(OPTIMIZER)]
    optimizer = {name.removeprefix(OPTIMIZER): arrays.pop(name) for name in names}
    return arrays, optimizer, _parse_object(metadata, _STATE_KEY, path, infinity=True)


def read(file: MappedFile) -> Checkpoint:
    """Open a run's weights, whatever the file's name is; or one of a Hugging Face folder. Raises CheckpointError.

    Weights that have checksums are read once, to compare them.
    """
    tensors, metadata = open_safetensors(file)
    if _CONFIG_KEY not in metadata:
        return read_weights_file(file, tensors, "safetensors")
    sums = check_texts(metadata, file.path)
    for name in sums:
        if name in tensors and not name.startswith(OPTIMIZER):
            check_tensor(name, tensors[name].numpy(), sums, file.path)
    config = _config(_parse_object(metadata, _CONFIG_KEY, file.path), f"{file.path}: __metadata__ {_CONFIG_KEY}")
    ignored_keys = tuple(name for name in tensors if name.startswith(OPTIMIZER))
    weights = _turned({name: tensor for name, tensor in tensors.items() if name not in ignored_keys})
    tokenizer = _find_tokenizer(file.path, metadata, config)
    return Checkpoint("run of npgpt", config, weights, file.path, (file,), ignored_keys, tokenizer)


def _find_tokenizer(path: Path, metadata: dict[str, str], config: GPTConfig) -> Finder:
    """The tokenizer in the file, since what is beside it may be another model's; else the file of the run."""
    if _TOKENIZER_KEY not in metadata:
        return beside(path, by_size(config.vocab_size), TOKENIZER_FILE)
    if metadata[_TOKENIZER_KEY] == "null":  # unknown when the file was written
        return unknown
    return lambda: stored(_parse_object(metadata, _TOKENIZER_KEY, path), str(path))


def _config(values: dict, source: str) -> GPTConfig:
    try:
        return GPTConfig.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {str(error)[:300]}") from None


def _parse_object(metadata: dict[str, str], key: str, path, infinity: bool = False) -> dict:
    source = f"{path}: __metadata__ {key}"
    values = parse_json(metadata[key], source, infinity)
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: a JSON object was expected")
    return values
