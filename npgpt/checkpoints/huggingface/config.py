"""A Hugging Face GPT-2 folder: config.json and model.safetensors, as transformers' ``save_pretrained`` writes them.

The parameters carry npgpt's names and shapes, after the prefix ``transformer.``, which the public gpt2 file lacks. The
work is in config.json: every setting that transformers' modeling_gpt2.py computes with is taken over, or must have the
one value that npgpt computes. The other keys there (summary_type, id2label ...) do not change what is computed.
"""

import re
import reprlib
import warnings
from pathlib import Path

from npgpt.checkpoints.shared.checkpoint import config_of
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, equal
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, CheckpointWarning
from npgpt.text.tokenizers import Tokenizer

# GPTConfig's field, its key in config.json, and the default of transformers' GPT2Config, taken when the key is missing.
_FIELDS = (
    ("vocab_size", "vocab_size", 50257),
    ("block_size", "n_positions", 1024),
    ("n_layer", "n_layer", 12),
    ("n_head", "n_head", 12),
    ("n_embd", "n_embd", 768),
    ("n_inner", "n_inner", None),
    ("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
    ("scale_attn_by_inverse_layer_idx", "scale_attn_by_inverse_layer_idx", False),
    ("tie_weights", "tie_word_embeddings", True),
)
# The names that all of transformers' models share; GPT2Config reads them as its own (its attribute_map).
_SYNONYMS = {
    "n_positions": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
}
_ACTIVATIONS = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
# Settings with one value that npgpt computes, which is also their default. (reorder_and_upcast_attn is not among them:
# it changes the order of two multiplications for the sake of float16, not the result.)
_REQUIRED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "add_cross_attention": False,
    "quantization_config": None,
}
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Constants that old versions of transformers saved with the weights: the causal mask and its fill value.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def weights_of_huggingface(
    config: GPTConfig, tensors: dict[str, LazyTensor], source: Path, config_file: Path
) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """-> the parameters under npgpt's names, and the names of what else is there. Raises CheckpointError."""
    found, ignored_keys = {}, []
    for stored_name, tensor in tensors.items():
        name = stored_name.removeprefix("transformer.")
        if _BUFFER.fullmatch(name):
            ignored_keys.append(stored_name)
            continue
        if name in found:
            raise CheckpointError(f"{source}: tensor {name[:100]!r} is there twice, with and without 'transformer.'")
        found[name] = tensor
    if config.tie_weights and "lm_head.weight" in found and "wte.weight" in found:
        if not equal(found["lm_head.weight"], found["wte.weight"]):
            # transformers 4 uses wte.weight for both here, transformers 5 uses each: only the owner knows the right one
            raise CheckpointError(
                f"{source}: tensor 'lm_head.weight' differs from 'wte.weight': to use both, set tie_word_embeddings to "
                f"false in {config_file}"
            )
        del found["lm_head.weight"]
        ignored_keys.append("lm_head.weight")
    return found, tuple(ignored_keys)


def config_from_huggingface(values: dict, source: str) -> GPTConfig:
    """Map the contents of a config.json. ``source`` (its path) begins every message.

    GPTConfig has one dropout where GPT-2 has three, which are equal in all the released models. If they aren't, it gets
    the largest, with a warning. A missing key takes the default that transformers gives it. Raises CheckpointError.
    """
    if "model_type" not in values and "n_embd" not in values:  # files from before 2020 have no model_type
        raise CheckpointError(f"{source}: neither model_type nor n_embd is there, so it is not a GPT-2's configuration")
    for key, wanted in _REQUIRED.items():
        value = values.get(key, wanted)
        if type(value) is not type(wanted) or value != wanted:
            raise CheckpointError(f"{source}: {key} is {reprlib.repr(value)}, and npgpt computes only {wanted!r}")

    fields = {field: _setting(values, key, default, source) for field, key, default in _FIELDS}

    name = values.get("activation_function", "gelu_new")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise CheckpointError(f"{source}: activation_function is {reprlib.repr(name)}: not {', '.join(_ACTIVATIONS)}")
    dropouts = [values.get(key, 0.1) for key in _DROPOUTS]
    for key, value in zip(_DROPOUTS, dropouts, strict=True):
        if type(value) not in (int, float):
            raise CheckpointError(f"{source}: {key} must be a number, not {reprlib.repr(value)}")
    if not dropouts[0] == dropouts[1] == dropouts[2]:
        found = ", ".join(f"{key} = {reprlib.repr(value)}" for key, value in zip(_DROPOUTS, dropouts, strict=True))
        said = f"{source}: {found}: npgpt has one dropout for the three. It takes the largest when the model is trained"
        warnings.warn(said, CheckpointWarning, stacklevel=2)
        dropouts = [max(dropouts)]

    fields |= {"activation": _ACTIVATIONS[name], "dropout": dropouts[0]}
    return config_of(fields, f"{source}:", {"dropout": _DROPOUTS[0]} | {field: key for field, key, _ in _FIELDS})


def config_to_huggingface(
    config: GPTConfig, tokenizer: Tokenizer | None, dtype: str = "F32", source: str = "config.json"
) -> dict:
    """The inverse: the contents of a config.json for weights of ``dtype`` ("F32", "F16", "BF16").

    What comes back has every bias: absent ones are written as zeros. Without a tokenizer, bos_token_id and eos_token_id
    are null. Raises CheckpointError, beginning with ``source``, for what transformers' GPT-2 can't compute.
    """
    if config.position != "learned":
        raise CheckpointError(f"{source}: position is {config.position!r}, and transformers' GPT-2 has only 'learned'")
    end = None if tokenizer is None else tokenizer.end_of_text
    return {
        "architectures": ["GPT2LMHeadModel"],
        **{key: value for key, value in _REQUIRED.items() if value is not None},
        **{key: getattr(config, field) for field, key, _ in _FIELDS},
        "n_ctx": config.block_size,  # what llama.cpp's converter reads
        "activation_function": config.activation,  # their names are those of transformers
        **dict.fromkeys(_DROPOUTS, config.dropout),
        "reorder_and_upcast_attn": False,
        "initializer_range": 0.02,
        "bos_token_id": end,
        "eos_token_id": end,
        "use_cache": True,
        "dtype": _DTYPES[dtype],
        "torch_dtype": _DTYPES[dtype],  # the same before transformers 4.56
    }


def _setting(values: dict, key: str, default, source: str):
    synonym = _SYNONYMS.get(key)
    if key == "n_positions" and not {key, synonym} & set(values):
        synonym = "n_ctx"  # in old files beside n_positions; transformers reads only that one, if there is one
    value = values.get(key, values.get(synonym, default))
    if values.get(synonym, value) != value:
        raise CheckpointError(f"{source}: {key} and {synonym} mean the same, and have different values")
    return value
