"""A tiny model, its adapters, and both in transformers and peft."""

import numpy as np

from helpers.models import as_checkpoint, with_random_parameters
from npgpt.adapters import LoRAConfig, new_adapter
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.config import GPTConfig
from npgpt.gpt import GPT

CONFIG = GPTConfig(vocab_size=23, block_size=8, n_layer=2, n_head=2, n_embd=16)
RNG = np.random.default_rng(7)
IDS, TARGETS = RNG.integers(CONFIG.vocab_size, size=(2, 3, 8))


def base_model(dtype=np.float64, **changes) -> GPT:
    config = GPTConfig(**{**CONFIG.to_dict(), **changes})
    return with_random_parameters(GPT.empty(config, dtype), seed=3)


def base_checkpoint(**changes) -> Checkpoint:
    return as_checkpoint(base_model(np.float32, **changes))


def random_adapter(rank=2, seed=0, config=CONFIG, **options):
    """An adapter that changes something: its B isn't 0. Its arrays are exact in float32."""
    adapter = new_adapter(config, LoRAConfig(rank, **options), seed, np.float32)
    rng = np.random.default_rng(seed)
    for A, B in adapter.matrices.values():
        A[...], B[...] = rng.standard_normal(A.shape) / 4, rng.standard_normal(B.shape) / 4
    return adapter


def peft_model(adapter, config, arrays):
    """GPT2LMHeadModel in float64 with our weights and this adapter beside them, in peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from test_gpt_against_torch import transformers_model

    c = adapter.config
    base, _ = transformers_model(config, {name: array.astype(np.float64) for name, array in arrays.items()})
    settings = LoraConfig(
        r=c.rank, lora_alpha=c.alpha, target_modules=list(c.targets), fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    found = get_peft_model(base, settings).double()
    with torch.no_grad():
        for layer, (A, B) in adapter.matrices.items():
            for which, array in (("A", A), ("B", B)):
                name = f"base_model.model.transformer.{layer}.lora_{which}.default.weight"
                found.get_parameter(name).copy_(torch.from_numpy(array.T.astype(np.float64)))
    return found.eval()
