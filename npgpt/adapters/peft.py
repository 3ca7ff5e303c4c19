"""Adapters in the files of Hugging Face's peft (LoRA of GPT-2), read and written without it.

    adapter_config.json         {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["c_attn"], ...}
    adapter_model.safetensors   base_model.model.transformer.h.0.attn.c_attn.lora_A.weight  (r, in), our A transposed
                                base_model.model.transformer.h.0.attn.c_attn.lora_B.weight  (out, r), our B transposed

lora_A and lora_B are torch's nn.Linear, whose weight is (out, in), though the matrix beside them is GPT-2's Conv1D,
(in, out): that is what "fan_in_fan_out" says, and only merging depends on it.

The files may be a stranger's. Each setting that changes what is computed is taken over, or must have the one value that
npgpt computes. Which layers have a part is told by the arrays; target_modules, which can be a regular expression, isn't
followed.

Source: peft 0.21, tuners/lora/config.py, tuners/lora/layer.py and utils/save_and_load.py.
"""

import re
import reprlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.adapters.adapter import LINEAR, Adapter, LoRAConfig
from npgpt.adapters.matrices import LAYER, read_matrices
from npgpt.checkpoints.safetensors import open_safetensors, write_safetensors
from npgpt.checkpoints.shared.atomic import atomic_folder, write_json
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.errors import CheckpointError, ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# With the prefix of a GPT2LMHeadModel, or of a GPT2Model.
_NAMES = re.compile(rf"base_model\.model\.(?:transformer\.)?({LAYER})\.lora_([AB])\.weight", re.ASCII)
# Settings with one value that npgpt computes. They may be left out; null and nothing are as good as false.
_REQUIRED: dict[str, Any] = {
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "use_bdlora": None,
    "use_qalora": False,
    "lora_bias": False,
    "layer_replication": None,
    "megatron_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "exclude_modules": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "corda_config": None,
    "eva_config": None,
}


# Settings that peft has always had, so that no version of it meets one that it doesn't know.
_COMMON = ("bias", "modules_to_save", "rank_pattern", "alpha_pattern")
# What A and B begin with. Other ways ("pissa", "olora", "loftq") change the base as well.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
_TARGETS = (*LINEAR, "c_attn", "c_fc", "c_proj")


def read_peft(folder: str | Path) -> Adapter:
    """Read a folder with both files. Raises CheckpointError if it isn't a LoRA of GPT-2's linear layers."""
    folder = Path(folder)
    source = folder / CONFIG_FILE
    values = read_json_object(source)
    config = _config(values, str(source))
    if not (folder / WEIGHTS_FILE).exists():
        other = " (adapter_model.bin is not read)" if (folder / "adapter_model.bin").exists() else ""
        raise CheckpointError(f"{folder}: {CONFIG_FILE} is there, but no {WEIGHTS_FILE}{other}")
    file = MappedFile(folder / WEIGHTS_FILE)
    matrices = read_matrices(open_safetensors(file)[0], _NAMES, config.rank, file.path, transposed=True)
    base = values.get("base_model_name_or_path")
    if base is not None and not (isinstance(base, str) and base.isprintable() and 0 < len(base) < 4096):
        raise CheckpointError(f"{source}: base_model_name_or_path: a name was expected, not {reprlib.repr(base)}")
    return Adapter(config, matrices, base, source=file.path)


def _config(values: dict, source: str) -> LoRAConfig:
    if values.get("peft_type") != "LORA":
        kind = reprlib.repr(values.get("peft_type"))
        raise CheckpointError(f"{source}: peft_type is {kind}, and npgpt computes only 'LORA'")
    for key, wanted in _REQUIRED.items():
        value = values.get(key, wanted)
        if value != wanted and (value or wanted):
            problem = f"{source}: {key} is {reprlib.repr(value)}, which npgpt doesn't compute:"
            raise CheckpointError(
                f"{problem}\nmerge the adapter in peft (merge_and_unload), and save and load that model"
            )
    rank, alpha, dropout = values.get("r", 8), values.get("lora_alpha", 8), values.get("lora_dropout", 0.0)
    rank_stabilised, beginning = values.get("use_rslora", False), values.get("init_lora_weights", True)
    if rank_stabilised not in (True, False, None):
        raise CheckpointError(f"{source}: use_rslora: true or false was expected, not {reprlib.repr(rank_stabilised)}")
    if not isinstance(beginning, bool | str | None) or beginning not in _BEGINNINGS:
        raise CheckpointError(f"{source}: init_lora_weights is {reprlib.repr(beginning)}, which changes the base too")
    targets = values.get("target_modules")
    if not isinstance(targets, list) or any(t not in _TARGETS for t in targets) or values.get("layers_to_transform"):
        targets = []  # something that needs a look at the arrays
    try:
        config = LoRAConfig.from_file(rank, alpha, dropout, targets)
        # It multiplies by alpha / sqrt(r), so it is another alpha.
        return replace(config, alpha=config.alpha * rank**0.5) if rank_stabilised else config
    except ConfigError as error:
        raise CheckpointError(f"{source}: {str(error)[:200]}") from None


def write_peft(folder: str | Path, adapter: Adapter) -> None:
    """Write a new folder that peft's ``PeftModel.from_pretrained`` opens. Raises CheckpointError if it is there."""
    try:
        with atomic_folder(folder) as unfinished:
            write_peft_files(unfinished, adapter)
    except FileExistsError:
        raise CheckpointError(f"{folder} is there already: name a new folder") from None
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be written: {error.strerror}") from error


def write_peft_files(folder: Path, adapter: Adapter) -> None:
    """Write both files into a folder, each atomically. Raises CheckpointError, OSError."""
    arrays = {}
    for layer, (A, B) in adapter.matrices.items():
        arrays[f"base_model.model.transformer.{layer}.lora_A.weight"] = np.ascontiguousarray(A.T)
        arrays[f"base_model.model.transformer.{layer}.lora_B.weight"] = np.ascontiguousarray(B.T)
    write_safetensors(folder / WEIGHTS_FILE, arrays)
    config, alpha = adapter.config, adapter.config.alpha
    values = {
        **{key: value for key, value in _REQUIRED.items() if key in _COMMON},
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "r": config.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": config.dropout,
        # The names in full if the configuration doesn't tell which layers have a part.
        "target_modules": sorted(config.targets) or [f"transformer.{layer}" for layer in adapter.matrices],
        "fan_in_fan_out": True,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(folder / CONFIG_FILE, values)
