"""Small models for the tests."""

from pathlib import Path

import numpy as np

from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.checkpoints.shared.tokenizers import by_size


def with_random_parameters(module, seed: int = 0):
    """Give every parameter random values, and return the module.

    A new model's biases are zero, its layer norms' weights one and its attention nearly uniform, so a forgotten bias
    or swapped queries and keys would hardly show. Each matrix is divided by the root of the number of terms in its
    products, which keeps logits around 1. A float64 model has the values of float32 too.
    """
    rng = np.random.default_rng(seed)
    for name, p in module.named_parameters():
        noise = rng.standard_normal(p.shape, np.float32)
        if p.ndim == 2:
            terms = p.shape[1] if name in ("wte.weight", "wpe.weight", "lm_head.weight") else p.shape[0]
            noise /= np.float32(np.sqrt(terms))
        else:
            noise = noise * np.float32(0.3) + np.float32("ln_" in name and name.endswith("weight"))
        p.data = noise.astype(p.dtype)
    return module


def as_checkpoint(model, tokenizer=None) -> Checkpoint:
    """The model as if it had been read from a file."""
    tensors = {name: lazy_array(array) for name, array in model.state_dict().items()}
    find = by_size(model.config.vocab_size) if tokenizer is None else lambda: tokenizer
    return Checkpoint("memory", model.config, tensors, Path("memory"), find_tokenizer=find)
