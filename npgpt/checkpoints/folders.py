"""A Hugging Face folder: config.json, and weights in one file or in shards."""

from functools import partial
from pathlib import Path

from npgpt.checkpoints.checkpoint import Checkpoint
from npgpt.checkpoints.huggingface import config_from_huggingface, weights_of_huggingface
from npgpt.checkpoints.mapped import MappedFile
from npgpt.checkpoints.safetensors import open_safetensors
from npgpt.checkpoints.stored import Stored
from npgpt.checkpoints.strict_json import read_json_object
from npgpt.checkpoints.tokenizer_files import TOKENIZER_FILE, find_tokenizer
from npgpt.errors import CheckpointError

# The first that is there is taken, as transformers does.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
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
    kind = "safetensors"
    if name.endswith(".index.json"):
        stored, files = _open_shards(source)
        kind += f", {len(files)} shards"
    else:
        stored, file = open_weights(source)
        files = (file,)
    tensors, skipped = weights_of_huggingface(config, stored, source, config_file)
    tokenizer = folder / TOKENIZER_FILE
    if not tokenizer.exists():
        guess = values.get("eos_token_id", 0) is not None  # null is what we write for a tokenizer that is unknown
        tokenizer = partial(find_tokenizer, folder, config.vocab_size, guess)
    return Checkpoint(f"Hugging Face folder ({kind})", config, tensors, source, files, skipped, tokenizer)


def open_weights(path: Path) -> tuple[dict[str, Stored], MappedFile]:
    """The tensors of one file, and the file."""
    tensors, _, file = open_safetensors(path)
    return tensors, file


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
