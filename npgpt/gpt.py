"""GPT: token and position embeddings, a stack of blocks, a last layer norm and the vocabulary head."""

import math

import numpy as np

from npgpt import ops
from npgpt.activation_checkpointing import recompute
from npgpt.config import GPTConfig
from npgpt.generation import generate
from npgpt.layers import Block, Dropout, Embedding, LayerNorm, Module
from npgpt.tensor import Tensor

__all__ = ["GPT", "GPTConfig"]


class GPT(Module):
    """GPT-2 (Radford et al. 2019), with the options of ``GPTConfig``.

    seed    of the initial weights and of dropout; None leaves all matrices zero, for weights that are loaded afterwards
    dtype   float32, or float64 for checking

    Dropout is off until ``model.train()``. With ``model.recompute = True`` training takes less memory and up to a
    third more time: see recompute.py.
    """

    recompute = False

    def __init__(self, config: GPTConfig, seed: int | None = 0, dtype=np.float32):
        dtype = np.dtype(dtype)
        self.config = config
        self.rng = np.random.default_rng(None if seed is None else [seed, 1])  # for dropout; weights have their own
        C = config.n_embd
        self.wte = Embedding(config.vocab_size, C, dtype)
        if config.position == "learned":
            self.wpe = Embedding(config.block_size, C, dtype)
        elif config.position == "sinusoidal":
            self.sinusoids = _sinusoids(config.block_size, C, dtype)
        self.drop = Dropout(config.dropout, self.rng)
        self.h = [Block(config, layer, self.rng, dtype) for layer in range(config.n_layer)]
        self.ln_f = LayerNorm(C, config.bias, config.layer_norm_epsilon, dtype)
        if not config.tie_weights:
            self.lm_head = Embedding(config.vocab_size, C, dtype)
        if seed is not None:
            self._initialise(np.random.default_rng([seed, 0]))

    def _initialise(self, rng):
        """GPT-2's: normal with deviation 0.02; smaller where a layer's result is added to the residual stream.

        The stream is a sum of 2 n_layer such results, so dividing by sqrt(2 n_layer) keeps its variance (section 2.3).
        Biases start at 0 and the layer norms' weights at 1.
        """
        for name, p in self.named_parameters():
            if p.ndim == 2:
                p.data[...] = rng.standard_normal(p.shape, np.float32)
                p.data *= 0.02 / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 0.02

    @property
    def head(self) -> Tensor:
        """The vocabulary head's matrix (V, C): the token embedding's own if weights are tied."""
        return self.wte.weight if self.config.tie_weights else self.lm_head.weight

    def features(self, ids, padding_mask=None, cache=None) -> Tensor:
        """ids (B, T) -> (B, T, C): what the vocabulary head reads.

        padding_mask    (B, T) of bool, False where an id is padding and is not to be looked at
        cache           a KeyValueCache: ids continue what it holds

        Raises ValueError if T is longer than the model's block_size, IndexError on an id outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"ids must have shape (B, T), not {ids.shape}")
        T = ids.shape[1]
        first = 0 if cache is None else cache.length
        if first + T > self.config.block_size:
            raise ValueError(f"{first + T} tokens, and the model's block_size is {self.config.block_size}")
        x = self.wte(ids)
        if self.config.position == "learned":
            x = x + self.wpe(np.arange(first, first + T))
        elif self.config.position == "sinusoidal":
            x = x + self.sinusoids[first : first + T]
        x = self.drop(x)
        for layer, block in enumerate(self.h):
            if self.recompute and cache is None:
                x = recompute(block, self.rng, x, padding_mask)
            else:
                x = block(x, padding_mask, None if cache is None else cache.layers[layer])
        return self.ln_f(x)

    def forward(self, ids, padding_mask=None) -> Tensor:
        """ids (B, T) -> logits (B, T, V): at each position, scores for the token that comes next."""
        return self.features(ids, padding_mask) @ self.head.T

    def loss(self, ids, targets, padding_mask=None) -> Tensor:
        """ids, targets (B, T) -> the mean cross-entropy in nats, over the targets that are not -100."""
        return ops.linear_cross_entropy(self.features(ids, padding_mask), self.head, targets)

    def generate(self, ids, max_new_tokens: int, **sampling) -> np.ndarray:
        """ids (B, T) -> (B, T + max_new_tokens). ``sampling``: see ``generation.generate``."""
        return generate(self, ids, max_new_tokens, **sampling)

    def seed(self, seed: int) -> None:
        """Seed dropout: the same seed gives the same masks again."""
        self.set_rng_state(np.random.default_rng([seed, 1]).bit_generator.state)

    def get_rng_state(self) -> dict:
        """The state of dropout's random generator, which JSON can hold."""
        return self.rng.bit_generator.state

    def set_rng_state(self, state: dict) -> None:
        """The inverse of ``get_rng_state``. Raises ValueError, TypeError or KeyError on anything else."""
        self.rng.bit_generator.state = state

    def num_parameters(self) -> int:
        return sum(p.size for _, p in self.named_parameters())


def _sinusoids(T: int, C: int, dtype) -> np.ndarray:
    """(T, C): sin(t w_j) in the even columns and cos(t w_j) in the odd, w_j = 10000^(-2j / C) (Vaswani et al. 2017)."""
    columns = np.arange(C)
    angles = np.arange(T)[:, None] * 10000.0 ** (-(columns - columns % 2) / C)
    return np.where(columns % 2 == 0, np.sin(angles), np.cos(angles)).astype(dtype)
