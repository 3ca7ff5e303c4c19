"""A Hugging Face folder: config.json, and weights in one file or in shards; or one of its files of weights alone."""

import re
from functools import partial
from pathlib import Path

from npgpt.checkpoints.huggingface.config import config_from_huggingface, weights_of_huggingface
from npgpt.checkpoints.huggingface.vocabulary import chat_template_of_folder, has_tokenizer_files, tokenizer_of_folder
from npgpt.checkpoints.pytorch import file as pytorch
from npgpt.checkpoints.pytorch.file import tensors_in
from npgpt.checkpoints.safetensors import open_safetensors
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.checkpoints.shared.tokenizers import beside
from npgpt.checkpoints.shared.validate import check_shares_nothing
from npgpt.config import PRESETS, GPTConfig
from npgpt.errors import CheckpointError

CONFIG_FILE = "config.json"
# The first that is there is taken, as transformers does. What is in one is told from its content, not from its name.
WEIGHTS = tuple(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
MAX_SHARDS = 1000
MAX_INDEX_BYTES = 10_000_000


def read_folder(folder: str | Path) -> Checkpoint:
    """Open a folder that transformers' ``save_pretrained`` wrote. Raises CheckpointError."""
    folder = Path(folder)
    values = read_json_object(folder / CONFIG_FILE)
    config = config_from_huggingface(values, str(folder / CONFIG_FILE))
    name = next((name for name in WEIGHTS if (folder / name).exists()), None)
    if name is None:
        raise CheckpointError(f"{folder}: {CONFIG_FILE} is there, but none of {', '.join(WEIGHTS)}")
    source = folder / name
    if name.endswith(".index.json"):
        tensors, files, kind = _open_shards(source)
    else:
        files = (MappedFile(source),)
        tensors, kind = _tensors_of(files[0])
    return _checkpoint(f"Hugging Face folder ({kind})", values, config, tensors, source, files)


def read_weights_file(file: MappedFile, tensors: dict[str, LazyTensor], kind: str) -> Checkpoint:
    """The tensors of a file of such a folder, with or without the config.json that belongs beside it.

    Without, its shapes must be those of one of GPT-2's four sizes. Raises CheckpointError.
    """
    config_file = file.path.with_name(CONFIG_FILE)
    if config_file.exists():
        values = read_json_object(config_file)
        config = config_from_huggingface(values, str(config_file))
    else:
        values, config = {}, _config_of_shapes(tensors, file.path)
    return _checkpoint(f"Hugging Face weights ({kind})", values, config, tensors, file.path, (file,))


def _tensors_of(file: MappedFile) -> tuple[dict[str, LazyTensor], str]:
    """The tensors of one file, and what kind of file it is."""
    if file.format().name == "pytorch":
        return tensors_in(pytorch.read(file), file.path), "PyTorch"
    return open_safetensors(file)[0], "safetensors"


def _checkpoint(format: str, values: dict, config: GPTConfig, found: dict[str, LazyTensor], source: Path, files: tuple):
    tensors, ignored_keys = weights_of_huggingface(config, found, source, source.with_name(CONFIG_FILE))
    check_shares_nothing(tensors, files, source)
    end = values.get("eos_token_id", 50256)  # null is what we write for a tokenizer that is unknown
    tokenizer = beside(source, partial(tokenizer_of_folder, source.parent, config.vocab_size, end))
    template = chat_template_of_folder(source.parent)
    folder = source.parent if has_tokenizer_files(source.parent) else None
    return Checkpoint(format, config, tensors, source, files, ignored_keys, tokenizer, template, folder)


def _config_of_shapes(tensors: dict[str, LazyTensor], path: Path) -> GPTConfig:
    """The configuration of the GPT-2 whose shapes these are: they tell all of it but the number of heads."""
    names = {name.removeprefix("transformer."): tensor.shape for name, tensor in tensors.items()}
    layers = {match[1] for match in map(re.compile(r"h\.(\d+)\.").match, names) if match}
    for preset, sizes in PRESETS.items():
        config = {"model_type": "gpt2", **sizes}
        shapes = {"wte.weight": (50257, sizes["n_embd"]), "wpe.weight": (1024, sizes["n_embd"])}
        if preset.startswith("gpt2") and len(layers) == sizes["n_layer"] and shapes.items() <= names.items():
            return config_from_huggingface(config, str(path))
    raise CheckpointError(
        f"{path}: the number of heads is unknown: the shapes are those of no released GPT-2,\n"
        f"and there is no {CONFIG_FILE} beside it: put the one there that belongs to it"
    )


def shards(index: Path) -> dict[str, set[str]]:
    """The shards that an index names, and the tensors that each must have.

    The names are a stranger's: they must be names of files in the index's own folder. Raises CheckpointError.
    """
    places = read_json_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: weight_map: an object of file names was expected")
    found: dict[str, set[str]] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:") or not name.isprintable():
            raise CheckpointError(f"{index}: weight_map: {str(name)[:100]!r} is not the name of a file beside it")
        found.setdefault(name, set()).add(tensor)
    if len(found) > MAX_SHARDS:
        raise CheckpointError(f"{index}: weight_map: up to {MAX_SHARDS} files were expected, not {len(found)}")
    return dict(sorted(found.items()))


def _open_shards(index: Path) -> tuple[dict[str, LazyTensor], tuple[MappedFile, ...], str]:
    """The tensors of all shards, each from the shard that the index names for it, the files, and their kind.

    Tensors that the index doesn't name are taken too, and a tied head may be missing: what a model can do without is
    told as in a single file.
    """
    tensors, others, files = {}, {}, []
    for name, expected in shards(index).items():
        file = MappedFile(index.parent / name)
        found, kind = _tensors_of(file)
        files.append(file)
        if missing := expected - found.keys() - {"lm_head.weight"}:
            raise CheckpointError(f"{file.path}: tensor {min(missing)[:200]!r} is not in it, as the index says")
        for tensor in found:
            (tensors if tensor in expected else others)[tensor] = found[tensor]
    tensors = others | tensors
    return tensors, tuple(files), kind + (f", {len(files)} shards" if len(files) > 1 else "")
