"""nanoGPT's ckpt.pt: one dict, saved with ``torch.save``, of the model, its sizes and the training.

    model           the state dict, {name: tensor}; each name begins with _orig_mod. if the model was compiled
    model_args      {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    optimizer, iter_num, best_val_loss, config      to go on training from; not read here

Its matrices are (out, in), as torch.nn.Linear has them. The head is stored beside the embedding that it is tied to.
A vocabulary of 50,304 is GPT-2's, filled up to a multiple of 64; with it go GPT-2's tokens. What other datasets' ids
mean is in their meta.pkl, a pickle of {"vocab_size": V, "itos": {id: character}, "stoi": {character: id}}. It is looked
for beside ckpt.pt, and where nanoGPT's sample.py finds it: ROOT/data/NAME/meta.pkl for ROOT/out-.../ckpt.pt, if the
checkpoint's config has NAME as its dataset. Such a vocabulary has no <|endoftext|>.

The file doesn't say which GELU the model computes. nanoGPT has had the exact one since May 2023, and before it GPT-2's.
Files without "bias" among the sizes are older (January 2023), so they are read as the latter.

Source: https://github.com/karpathy/nanoGPT, model.py and train.py.
"""

import os
import re
from pathlib import Path

from npgpt.checkpoints.pytorch.file import tensors_in
from npgpt.checkpoints.pytorch.pickles import read_pickle, short_repr
from npgpt.checkpoints.shared.checkpoint import Checkpoint, config_of
from npgpt.checkpoints.shared.lazy_tensor import equal
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import GPT2_NAMES, TRANSPOSED, to_ours
from npgpt.checkpoints.shared.tokenizers import Finder, beside, by_size
from npgpt.checkpoints.shared.validate import check_shares_nothing
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text.tokenizers import CharTokenizer, GPT2Tokenizer

CKPT_FILE = "ckpt.pt"  # in the folder that its training fills
META_FILE = "meta.pkl"
MAX_META_BYTES = 1 << 20  # shakespeare_char's takes 703

# As in GPT-2, but that torch.nn.Linear has its matrix as (out, in).
NAMES = tuple(
    (f"transformer.{name}", name, *([TRANSPOSED] if re.fullmatch(r"h\.\{\}\.(attn|mlp)\..*weight", name) else []))
    for name in GPT2_NAMES
)
_MASK = re.compile(r"transformer\.h\.\d+\.attn\.bias")  # the causal mask, where attention is not PyTorch's own
_PADDED_VOCABULARY = 50304


def read_nanogpt(found: dict, file: MappedFile) -> Checkpoint:
    """The checkpoint in an object that ``pytorch.file.read`` found in the file. Raises CheckpointError."""
    path = file.path
    config = config_from_nanogpt(found["model_args"], f"{path}: model_args")
    tensors = tensors_in(found["model"], f"{path}: model")
    ignored_keys = [str(key)[:100] for key in found.keys() - {"model", "model_args"}]
    kept = {}
    for stored_name, tensor in tensors.items():
        name = stored_name.removeprefix("_orig_mod.")
        if name in kept:
            raise CheckpointError(f"{path}: tensor {name[:100]!r} is there twice, with and without '_orig_mod.'")
        if _MASK.fullmatch(name):
            ignored_keys.append(stored_name)
        else:
            kept[name] = tensor
    head = kept.pop("lm_head.weight", None)
    if head is not None:
        if "transformer.wte.weight" in kept and not equal(head, kept["transformer.wte.weight"]):
            raise CheckpointError(f"{path}: tensor 'lm_head.weight' differs from 'transformer.wte.weight'")
        ignored_keys.append("lm_head.weight")
    ours = to_ours(NAMES, kept, path)
    check_shares_nothing(ours, (file,), path)
    tokenizer = beside(path, _find_meta(path, found.get("config"), config.vocab_size))
    return Checkpoint("nanoGPT", config, ours, path, (file,), tuple(sorted(ignored_keys)), tokenizer)


def _find_meta(path: Path, settings: object, vocab_size: int) -> Finder:
    """The tokenizer in meta.pkl; without one GPT-2's, if the vocabulary has its size, padded or not."""
    places = [path.with_name(META_FILE)]
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    if isinstance(dataset, str) and re.fullmatch(r"\w[\w.-]{0,100}", dataset, re.ASCII):  # a stranger's: no path
        places.append(Path(os.path.abspath(path)).parent.parent / "data" / dataset / META_FILE)
    for place in places:
        if place.exists():
            return lambda: read_meta(MappedFile(place), vocab_size)
    return GPT2Tokenizer if vocab_size == _PADDED_VOCABULARY else by_size(vocab_size)


def read_meta(file: MappedFile, vocab_size: int | None = None) -> CharTokenizer:
    """The tokenizer in a dataset's meta.pkl, whose characters must be sorted. Raises CheckpointError.

    vocab_size      how many there must be: as many as the model's ids. None: any number
    """
    if file.size > MAX_META_BYTES:
        raise CheckpointError(f"{file.path}: larger than {MAX_META_BYTES:,} bytes, so it is not nanoGPT's")
    values, length = read_pickle(memoryview(file.take(0, file.size, "pickle")), str(file.path))
    if length != file.size:
        raise CheckpointError(f"{file.path}: {file.size - length:,} bytes after the pickle")
    try:
        size, itos, stoi = (values[key] for key in ("vocab_size", "itos", "stoi"))  # type: ignore[index]
        characters = [itos[id] for id in range(size)]
    except (LookupError, TypeError):
        characters = [""]
    # In this order: the hash of a deeply nested tuple would overflow the stack.
    are_characters = all(isinstance(character, str) and len(character) == 1 for character in characters)
    if not are_characters or size != len(itos) or stoi != {character: id for id, character in enumerate(characters)}:
        raise CheckpointError(f"{file.path}: expected vocab_size, itos with a character per id, and stoi, its inverse")
    if vocab_size not in (None, size):
        raise CheckpointError(f"{file.path}: {size:,} ids, and the model has {vocab_size:,}: it is another dataset's")
    try:
        return CharTokenizer("".join(characters), has_end_of_text=False)
    except TokenizerError as error:
        raise CheckpointError(f"{file.path}: {error}") from None


def config_from_nanogpt(values: object, source: str) -> GPTConfig:
    """Map ``model_args``. ``source`` begins every message. Raises CheckpointError."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: a dict was expected, not a {type(values).__name__}")
    known = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    odd = sorted(map(str, values.keys() ^ known - ({"bias"} - values.keys())))
    if odd:
        raise CheckpointError(f"{source}: {odd[0][:100]!r} is {'missing' if odd[0] in known else 'unknown'}")
    for key, value in values.items():
        if not isinstance(value, int | float | None):  # others might print without end
            raise CheckpointError(f"{source}: {key} is {short_repr(value)}, and a number was expected")
    activation = "gelu" if "bias" in values else "gelu_new"
    return config_of({**values, "activation": activation, "layer_norm_epsilon": 1e-5}, f"{source}:")
