"""GPT-2 in llama.cpp's format: which keys and tensors a GGUF file of the architecture "gpt2" has.

llama.cpp computes one model under this name: learned positions, tanh GELU, biases everywhere, and a head of its own if
the tensor output.weight is there. A model that differs from that can't be written, and a file that says so is refused.

Source: src/models/gpt2.cpp and conversion/gpt2.py of github.com/ggml-org/llama.cpp.
"""

from pathlib import Path
from typing import Any

import numpy as np

from npgpt.checkpoints.gguf.file import read_tensors, write_gguf_file
from npgpt.checkpoints.gguf.metadata import Metadata
from npgpt.checkpoints.gguf.tokenizer import chat_template_in, tokenizer_in, tokenizer_metadata
from npgpt.checkpoints.shared.blocks import ELEMENTS
from npgpt.checkpoints.shared.cast import rounded, with_all_biases
from npgpt.checkpoints.shared.checkpoint import Checkpoint, config_of
from npgpt.checkpoints.shared.lazy_tensor import equal
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import TRANSPOSED, to_ours, to_theirs
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError

NAMES = (
    ("token_embd.weight", "wte.weight"),
    ("position_embd.weight", "wpe.weight"),
    ("blk.{}.attn_norm.weight", "h.{}.ln_1.weight"),
    ("blk.{}.attn_norm.bias", "h.{}.ln_1.bias"),
    ("blk.{}.attn_qkv.weight", "h.{}.attn.c_attn.weight", TRANSPOSED),
    ("blk.{}.attn_qkv.bias", "h.{}.attn.c_attn.bias"),
    ("blk.{}.attn_output.weight", "h.{}.attn.c_proj.weight", TRANSPOSED),
    ("blk.{}.attn_output.bias", "h.{}.attn.c_proj.bias"),
    ("blk.{}.ffn_norm.weight", "h.{}.ln_2.weight"),
    ("blk.{}.ffn_norm.bias", "h.{}.ln_2.bias"),
    ("blk.{}.ffn_up.weight", "h.{}.mlp.c_fc.weight", TRANSPOSED),
    ("blk.{}.ffn_up.bias", "h.{}.mlp.c_fc.bias"),
    ("blk.{}.ffn_down.weight", "h.{}.mlp.c_proj.weight", TRANSPOSED),
    ("blk.{}.ffn_down.bias", "h.{}.mlp.c_proj.bias"),
    ("output_norm.weight", "ln_f.weight"),
    ("output_norm.bias", "ln_f.bias"),
    ("output.weight", "lm_head.weight"),
)

# GPTConfig's field, its key, and the key's type. The vocabulary's size is that of token_embd.weight.
_FIELDS = (
    ("block_size", "gpt2.context_length", "uint32"),
    ("n_embd", "gpt2.embedding_length", "uint32"),
    ("n_layer", "gpt2.block_count", "uint32"),
    ("n_inner", "gpt2.feed_forward_length", "uint32"),
    ("n_head", "gpt2.attention.head_count", "uint32"),
    ("layer_norm_epsilon", "gpt2.attention.layer_norm_epsilon", "float32"),
)
# dtype -> general.file_type (enum llama_ftype in llama.h)
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_0": 2}


def read(file: MappedFile) -> Checkpoint:
    """Open a GGUF file of a GPT-2. Raises CheckpointError."""
    path = file.path
    stored, metadata = read_tensors(file)
    architecture = metadata.text("general.architecture")
    if architecture != "gpt2":
        raise CheckpointError(f"{path}: general.architecture is {architecture[:100]!r}, and npgpt reads only 'gpt2'")
    if "split.count" in metadata and metadata.number("split.count", "uint16") > 1:
        raise CheckpointError(f"{path}: one part of several (split.count): put them together with llama-gguf-split")
    tensors = to_ours(NAMES, stored, path)
    if "wte.weight" not in tensors:
        raise CheckpointError(f"{path}: tensor 'token_embd.weight' is not there")
    ignored_keys: tuple[str, ...] = ()
    if "lm_head.weight" in tensors and equal(tensors["lm_head.weight"], tensors["wte.weight"]):
        del tensors["lm_head.weight"]
        ignored_keys = ("output.weight",)
    vocab_size = tensors["wte.weight"].shape[0]
    config = _config(metadata, vocab_size, tie_weights="lm_head.weight" not in tensors, path=path)
    tokenizer = tokenizer_in(metadata, vocab_size, path)
    format = f"GGUF ({', '.join(sorted({tensor.dtype for tensor in tensors.values()}))})"
    template = chat_template_in(metadata, path)
    return Checkpoint(format, config, tensors, path, (file,), ignored_keys, tokenizer, template)


def _config(metadata: Metadata, vocab_size: int, tie_weights: bool, path) -> GPTConfig:
    fields: dict[str, Any] = {field: metadata.number(key, type) for field, key, type in _FIELDS}
    n_head, n_embd = fields["n_head"], fields["n_embd"]
    if fields["n_inner"] == 4 * n_embd:
        fields["n_inner"] = None
    for key, type, wanted in (
        ("gpt2.vocab_size", "uint32", vocab_size),
        ("gpt2.attention.head_count_kv", "uint32", n_head),
        ("gpt2.attention.key_length", "uint32", n_embd // max(n_head, 1)),
        ("gpt2.attention.value_length", "uint32", n_embd // max(n_head, 1)),
        ("gpt2.attention.causal", "bool", True),
    ):
        if key in metadata and metadata.number(key, type) != wanted:
            raise CheckpointError(f"{path}: key {key} is {metadata.number(key, type)}, not {wanted} as in GPT-2")
    fields |= {"vocab_size": vocab_size, "tie_weights": tie_weights}
    return config_of(fields, f"{path}: key", {field: key for field, key, _ in _FIELDS})


def write(path: str | Path, checkpoint: Checkpoint, dtype: str = "F32") -> None:
    """Write a GGUF file that llama.cpp runs, and with it the tokenizer, if there is one.

    dtype   of the matrices: "F32", "F16", "Q8_0" or "Q4_0"; ``_type`` tells the exceptions, which are llama-quantize's

    Biases that the model doesn't have are written as zeros. Raises CheckpointError, which names the setting, if
    llama.cpp's gpt2 can't compute the model, or the file can't be written.
    """
    path, config = Path(path), checkpoint.config
    for field, wanted in (
        ("position", "learned"),
        ("activation", "gelu_new"),
        ("scale_attn_by_inverse_layer_idx", False),
    ):
        if getattr(config, field) != wanted:
            raise CheckpointError(f"{path}: {field} is {getattr(config, field)}, and llama.cpp has only {wanted}")
    if np.float32(config.layer_norm_epsilon) == 0:
        raise CheckpointError(f"{path}: layer_norm_epsilon is {config.layer_norm_epsilon}, which is 0 in float32")
    values = {**config.to_dict(), "n_inner": config.inner_size}
    metadata = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": path.stem.encode(errors="replace").decode(),
        "general.file_type": _FILE_TYPES[dtype],
        "general.quantization_version": 2,
        **{key: (float if type == "float32" else int)(values[field]) for field, key, type in _FIELDS},
        "gpt2.vocab_size": config.vocab_size,
        **tokenizer_metadata(checkpoint.tokenizer, config.vocab_size),
    }
    by_type = {
        type: to_theirs(NAMES, with_all_biases(config, rounded(checkpoint, type, path))[1]) for type in ("F32", "F16")
    }
    tensors = {}
    for name, tensor in by_type["F32"].items():
        type = _type(name, tensor.shape, dtype, config.tie_weights)
        tensors[name] = (by_type["F16"][name] if type == "F16" else tensor, type)
    write_gguf_file(path, metadata, tensors)


def _type(name: str, shape: tuple[int, ...], dtype: str, tie_weights: bool) -> str:
    """The type that a tensor is stored as, in a file of this dtype: as llama-quantize chooses.

    Vectors and the position embedding are F32. The vocabulary head of a Q4_0 model is Q6_K, since four bits cost the
    most there, or Q8_0 if its rows are no whole blocks of 256. What has no whole blocks of 32 either is F16.
    """
    if len(shape) == 1 or name == "position_embd.weight":
        return "F32"
    if dtype == "Q4_0" and name == ("token_embd.weight" if tie_weights else "output.weight"):
        dtype = "Q8_0" if shape[-1] % ELEMENTS["Q6_K"] else "Q6_K"
    return "F16" if shape[-1] % ELEMENTS.get(dtype, 1) else dtype
