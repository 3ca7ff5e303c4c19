"""nanoGPT's ckpt.pt: one dict, saved with ``torch.save``, of the model, its sizes and the training.

    model           the state dict, {name: tensor}; each name begins with _orig_mod. if the model was compiled
    model_args      {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    optimizer, iter_num, best_val_loss, config      to go on training from; not read here

build-nanogpt's model_05000.pt, of the lecture "Let's reproduce GPT-2", has an object in place of the sizes:

    model           the same
    config          a GPTConfig of vocab_size, block_size, n_layer, n_head and n_embd
    step, val_loss

Its matrices are (out, in), as torch.nn.Linear has them. The head is stored beside the embedding that it is tied to.
A vocabulary of 50,304 is GPT-2's, filled up to a multiple of 64; with it go GPT-2's tokens. What other datasets' ids
mean is in their meta.pkl (shared/nanogpt_meta.py). It is looked for beside ckpt.pt, and where nanoGPT's sample.py
finds it: ROOT/data/NAME/meta.pkl for ROOT/out-.../ckpt.pt, if the checkpoint's config has NAME as its dataset.

The file doesn't say which GELU the model computes. nanoGPT has had the exact one since May 2023, and before it GPT-2's.
Files without "bias" among the sizes are older (January 2023), so they are read as the latter. So are build-nanogpt's,
which compute GPT-2's.

Sources: https://github.com/karpathy/nanoGPT, model.py and train.py; https://github.com/karpathy/build-nanogpt,
train_gpt2.py.
"""

import os
import re
from pathlib import Path

from npgpt.checkpoints.pytorch.file import tensors_in
from npgpt.checkpoints.shared.checkpoint import Checkpoint, config_of
from npgpt.checkpoints.shared.lazy_tensor import equal
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import GPT2_NAMES, TRANSPOSED, to_ours
from npgpt.checkpoints.shared.nanogpt_meta import META_FILE, read_meta
from npgpt.checkpoints.shared.pickles import short_repr
from npgpt.checkpoints.shared.tokenizers import Finder, beside, by_size
from npgpt.checkpoints.shared.validate import check_shares_nothing
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import GPT2Tokenizer

CKPT_FILE = "ckpt.pt"  # in the folder that its training fills

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
    sizes = "model_args" if "model_args" in found else "config"
    values = {"dropout": 0.0, **(found[sizes].values or {})} if sizes == "config" else found[sizes]
    config = config_from_nanogpt(values, f"{path}: {sizes}")
    tensors = tensors_in(found["model"], f"{path}: model")
    ignored_keys = [str(key)[:100] for key in found.keys() - {"model", sizes}]
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
