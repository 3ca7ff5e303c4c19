"""A Hugging Face folder: config.json, and weights in one file or in shards; or one of its files of weights alone."""

import re
from functools import partial
from pathlib import Path

from npgpt.checkpoints.huggingface.config import config_from_huggingface, weights_of_huggingface
from npgpt.checkpoints.huggingface.tokenizer import OUR_TOKENIZER_FILE, find_tokenizer
from npgpt.checkpoints.pytorch.file import check_own_numbers, tensors_in
from npgpt.checkpoints.pytorch.file import matches as is_torch
from npgpt.checkpoints.pytorch.file import read as read_torch
from npgpt.checkpoints.safetensors import open_safetensors
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import Stored
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.config import PRESETS, GPTConfig
from npgpt.errors import CheckpointError

CONFIG_FILE = "config.json"
# The first that is there is taken, as transformers does. What is in one is told from its content, not from its name.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_SHARDS = 1000
MAX_INDEX_BYTES = 10_000_000


def read_huggingface(folder: str | Path) -> Checkpoint:
    """Open a folder that transformers' ``save_pretrained`` wrote. Raises CheckpointError."""
    folder = Path(folder)
    config_file = folder / "config.json"
    values = read_json_object(config_file)
    config = config_from_huggingface(values, str(config_file))
    name = next((name for name in WEIGHTS if (folder / name).exists()), None)
    if name is None:
        raise CheckpointError(f"{folder}: config.json is there, but none of {', '.join(WEIGHTS)}")
    source = folder / name
    if name.endswith(".index.json"):
        stored, files = _open_shards(source)
    else:
        stored, file = open_weights(source)
        files = (file,)
    return _checkpoint("Hugging Face folder", values, config, stored, source, files)


def read_weights_file(path: Path, tensors: dict[str, Stored], file: MappedFile) -> Checkpoint:
    """What ``open_weights`` found in a file of such a folder, with or without the config.json that belongs beside it.

    Without, its shapes must be those of one of GPT-2's four sizes. Raises CheckpointError.
    """
    config_file = path.with_name(CONFIG_FILE)
    if config_file.exists():
        values = read_json_object(config_file)
        config = config_from_huggingface(values, str(config_file))
    else:
        values, config = {}, _config_of_shapes(tensors, path)
    return _checkpoint("Hugging Face weights", values, config, tensors, path, (file,))


def open_weights(path: Path) -> tuple[dict[str, Stored], MappedFile]:
    """The tensors of one file, and the file."""
    file = MappedFile(path)
    if is_torch(file):
        return tensors_in(read_torch(file), path), file
    tensors, _, file = open_safetensors(path)
    return tensors, file


def _checkpoint(what: str, values: dict, config: GPTConfig, stored: dict[str, Stored], source: Path, files: tuple):
    tensors, skipped = weights_of_huggingface(config, stored, source, source.with_name(CONFIG_FILE))
    for file in files:
        file.forget()  # what comparing a head with the embedding has read
    check_own_numbers(tensors, files, source)
    kind = "PyTorch" if is_torch(files[0]) else "safetensors"
    kind += f", {len(files)} shards" if len(files) > 1 else ""
    tokenizer = source.with_name(OUR_TOKENIZER_FILE)
    if not tokenizer.exists():
        guess = values.get("eos_token_id", 0) is not None  # null is what we write for a tokenizer that is unknown
        tokenizer = partial(find_tokenizer, source.parent, config.vocab_size, guess)
    return Checkpoint(f"{what} ({kind})", config, tensors, source, files, skipped, tokenizer)


def _config_of_shapes(tensors: dict[str, Stored], path: Path) -> GPTConfig:
    """The configuration of the GPT-2 whose shapes these are: they tell all of it but the number of heads."""
    names = {name.removeprefix("transformer."): tensor.shape for name, tensor in tensors.items()}
    layers = {match[1] for match in map(re.compile(r"h\.(\d+)\.").match, names) if match}
    for preset, sizes in PRESETS.items():
        config = {"model_type": "gpt2", **sizes}
        shapes = {"wte.weight": (50257, sizes["n_embd"]), "wpe.weight": (1024, sizes["n_embd"])}
        if preset.startswith("gpt2") and len(layers) == sizes["n_layer"] and shapes.items() <= names.items():
            return config_from_huggingface(config, str(path))
    raise CheckpointError(
        f"{path}: tensors only, not those of GPT-2's four sizes, and how many heads they are for is not in the file:\n"
        f"put the {CONFIG_FILE} that belongs to it beside it"
    )


def shards(index: Path) -> dict[str, set[str]]:
    """The shards that an index names, and the tensors that each must have.

    The names are a stranger's: they must be names of files in the index's own folder. Raises CheckpointError.
    """
    places = read_json_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: weight_map: an object of file names was expected")
    names = sorted(set(places.values()))
    if not 0 < len(names) <= MAX_SHARDS:
        raise CheckpointError(f"{index}: weight_map: 1 to {MAX_SHARDS} files were expected, not {len(names)}")
    for name in names:
        if name in ("", ".", "..") or set(name) & set("/\\:") or not name.isprintable():
            raise CheckpointError(f"{index}: weight_map: {name[:100]!r} is not the name of a file beside it")
    found = {name: set() for name in names}
    for tensor, name in places.items():
        found[name].add(tensor)
    return found


def _open_shards(index: Path):
    """The tensors of all shards, each from the shard that the index names for it, and the files."""
    tensors, files = {}, []
    for name, expected in shards(index).items():
        path = index.parent / name
        found, file = open_weights(path)
        files.append(file)
        if found.keys() != expected:
            odd = sorted(found.keys() ^ expected)[0]
            what = "is in it, and the index doesn't say so" if odd in found else "is not in it, as the index says"
            raise CheckpointError(f"{path}: tensor {odd[:200]!r} {what}")
        tensors |= found
    return tensors, tuple(files)
