"""nanoGPT's ckpt.pt: one dict, saved with ``torch.save``, of the model, its sizes and the training.

    model           the state dict, {name: tensor}; each name begins with _orig_mod. if the model was compiled
    model_args      {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    optimizer, iter_num, best_val_loss, config      to go on training from; not read here

Its matrices are (out, in), as torch.nn.Linear has them. The head is stored beside the embedding that it is tied to.
A vocabulary of 50,304 is GPT-2's, filled up to a multiple of 64; with it go GPT-2's tokens. What other datasets' ids
mean is in their meta.pkl, which is not part of the file.

The file doesn't say which GELU the model computes. nanoGPT has had the exact one since May 2023, and before it GPT-2's.
Files without "bias" among the sizes are older (January 2023), so they are read as the latter.

Source: https://github.com/karpathy/nanoGPT, model.py and train.py.
"""

import re
from pathlib import Path

from npgpt.checkpoints.pytorch.file import check_own_numbers, tensors_in
from npgpt.checkpoints.pytorch.pickles import described
from npgpt.checkpoints.shared.checkpoint import Checkpoint, config_of
from npgpt.checkpoints.shared.lazy_tensor import equal
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import TURNED, to_ours
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import GPT2Tokenizer

CKPT_FILE = "ckpt.pt"  # in the folder that its training fills

NAMES = (
    ("transformer.wte.weight", "wte.weight"),
    ("transformer.wpe.weight", "wpe.weight"),
    ("transformer.h.{}.ln_1.weight", "h.{}.ln_1.weight"),
    ("transformer.h.{}.ln_1.bias", "h.{}.ln_1.bias"),
    ("transformer.h.{}.attn.c_attn.weight", "h.{}.attn.c_attn.weight", TURNED),
    ("transformer.h.{}.attn.c_attn.bias", "h.{}.attn.c_attn.bias"),
    ("transformer.h.{}.attn.c_proj.weight", "h.{}.attn.c_proj.weight", TURNED),
    ("transformer.h.{}.attn.c_proj.bias", "h.{}.attn.c_proj.bias"),
    ("transformer.h.{}.ln_2.weight", "h.{}.ln_2.weight"),
    ("transformer.h.{}.ln_2.bias", "h.{}.ln_2.bias"),
    ("transformer.h.{}.mlp.c_fc.weight", "h.{}.mlp.c_fc.weight", TURNED),
    ("transformer.h.{}.mlp.c_fc.bias", "h.{}.mlp.c_fc.bias"),
    ("transformer.h.{}.mlp.c_proj.weight", "h.{}.mlp.c_proj.weight", TURNED),
    ("transformer.h.{}.mlp.c_proj.bias", "h.{}.mlp.c_proj.bias"),
    ("transformer.ln_f.weight", "ln_f.weight"),
    ("transformer.ln_f.bias", "ln_f.bias"),
)
_MASK = re.compile(r"transformer\.h\.\d+\.attn\.bias")  # the causal mask, where attention is not PyTorch's own
_PADDED_VOCABULARY = 50304


def is_nanogpt(found: object) -> bool:
    """Whether an object that ``pytorch.file.read`` found is of the form above."""
    return isinstance(found, dict) and {"model", "model_args"} <= found.keys()


def read_nanogpt(found: dict, path: str | Path, file: MappedFile) -> Checkpoint:
    """The checkpoint in an object that ``pytorch.file.read`` found in ``path``. Raises CheckpointError."""
    config = config_from_nanogpt(found["model_args"], f"{path}: model_args")
    tensors = tensors_in(found["model"], f"{path}: model")
    skipped = [str(key)[:100] for key in found.keys() - {"model", "model_args"}]
    kept = {}
    for stored_name, tensor in tensors.items():
        name = stored_name.removeprefix("_orig_mod.")
        if name in kept:
            raise CheckpointError(f"{path}: tensor {name[:100]!r} is there twice, with and without '_orig_mod.'")
        if _MASK.fullmatch(name):
            skipped.append(stored_name)
        else:
            kept[name] = tensor
    head = kept.pop("lm_head.weight", None)
    if head is not None:
        if "transformer.wte.weight" in kept and not equal(head, kept["transformer.wte.weight"]):
            raise CheckpointError(
                f"{path}: tensor 'lm_head.weight' differs from 'transformer.wte.weight', and in nanoGPT they are one"
            )
        skipped.append("lm_head.weight")
    file.forget()  # what comparing them has read
    ours = to_ours(NAMES, kept, path)
    check_own_numbers(ours, (file,), path)
    tokenizer = {"name": GPT2Tokenizer.name} if config.vocab_size == _PADDED_VOCABULARY else None
    return Checkpoint("nanoGPT", config, ours, Path(path), (file,), tuple(sorted(skipped)), tokenizer)


def config_from_nanogpt(values: object, source: str) -> GPTConfig:
    """Map ``model_args``. ``source`` begins every message. Raises CheckpointError."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: a dict was expected, not a {type(values).__name__}")
    known = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    missing, unknown = known - {"bias"} - values.keys(), values.keys() - known
    if missing or unknown:
        names = ", ".join(repr(str(name)[:40]) for name in sorted(missing or unknown, key=str)[:7])
        raise CheckpointError(f"{source}: {names} {'is not there' if missing else 'is not a setting of nanoGPT'}")
    for key, value in values.items():
        if not isinstance(value, int | float | None):  # others might print without end
            raise CheckpointError(f"{source}: {key} is {described(value)}, and a number was expected")
    activation = "gelu" if "bias" in values else "gelu_new"
    return config_of({**values, "activation": activation, "layer_norm_epsilon": 1e-5}, f"{source}:")
