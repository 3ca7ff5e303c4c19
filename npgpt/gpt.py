"""GPT: token and position embeddings, a stack of blocks, a last layer norm and the vocabulary head."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npgpt import ops
from npgpt.activation_checkpointing import checkpointed
from npgpt.config import GPTConfig
from npgpt.errors import ConfigError
from npgpt.layers import Block, Dropout, Embedding, LayerNorm, Module, allocate
from npgpt.tensor import Tensor

if TYPE_CHECKING:
    from npgpt.generation import Decoder, Token

__all__ = ["GPT", "GPTConfig", "parameter_count", "parameter_shapes"]

MAX_LAYERS = 10_000  # a stranger's file may ask for more; each is a hundred objects of Python


class GPT(Module):
    """GPT-2 (Radford et al. 2019), with the options of ``GPTConfig``.

    seed    of the initial weights and of dropout
    dtype   float32, or float64 for checking; TypeError on another one

    Dropout is off until ``model.train()``. With ``model.recompute = True`` training takes less memory and up to a
    third more time: see activation_checkpointing.py.
    """

    recompute = False

    def __init__(self, config: GPTConfig, seed: int = 0, dtype: DTypeLike = np.float32):
        self._declare(config, dtype)
        self._initialise(np.random.default_rng([seed, 0]))
        self.seed(seed)

    @classmethod
    def empty(cls, config: GPTConfig, dtype: DTypeLike = np.float32) -> "GPT":
        """A model whose parameters have shapes and no memory, for weights that are loaded into it.

        >>> GPT.empty(GPTConfig.preset("gpt2-xl")).num_parameters()
        1557611200
        """
        model = cls.__new__(cls)
        model._declare(config, dtype)
        model.seed(0)
        return model

    def _declare(self, config, dtype):
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"a model's dtype is float32 or float64, not {dtype}; model.quantize() makes fewer bits")
        if config.n_layer > MAX_LAYERS:
            raise ConfigError(f"n_layer must be at most {MAX_LAYERS:,}, not {config.n_layer:,}")
        self.config = config
        self.rng = np.random.default_rng()  # for dropout alone; ``seed`` sets it
        C = config.n_embd
        self.wte = Embedding(config.vocab_size, C, dtype)
        if config.position == "learned":
            self.wpe = Embedding(config.block_size, C, dtype)
        self.drop = Dropout(config.dropout, self.rng)
        self.h = [Block(config, layer, self.rng, dtype) for layer in range(config.n_layer)]
        self.ln_f = LayerNorm(C, config.bias, config.layer_norm_epsilon, dtype)
        if not config.tie_weights:
            self.lm_head = Embedding(config.vocab_size, C, dtype)  # only its weight is used, transposed: see logits

    def _initialise(self, rng):
        """Matrices: normal, with standard deviation 0.02 as in OpenAI's code (whose wpe has 0.01), smaller in c_proj.

        The two c_proj of a block make what is added to the residual stream, so it is a sum of 2 n_layer results. Their
        variances add up, and dividing by sqrt(2 n_layer) keeps the sum from growing with n_layer (Radford et al. 2019,
        section 2.3). Biases start at 0 and layer norms' weights at 1, as declared.
        """
        # All memory is taken first, so that a model that is too large fails before the work.
        matrices = {name: allocate(p) for name, p in self.named_parameters() if p.ndim == 2}
        for name, matrix in matrices.items():
            matrix[...] = rng.standard_normal(matrix.shape, np.float32)
            matrix *= 0.02 / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 0.02
        for p in self.parameters():
            if p.ndim == 1:
                p.data = np.array(p.data)  # a declared one is a read-only view

    def seed(self, seed: int) -> None:
        """Restart dropout's random numbers. A new model starts with its own seed, a loaded one with 0."""
        self.rng.bit_generator.state = np.random.default_rng([seed, 1]).bit_generator.state

    def get_rng_state(self) -> dict:
        """The state of dropout's random numbers; ``set_rng_state`` continues from it. JSON can hold it."""
        return self.rng.bit_generator.state

    def set_rng_state(self, state: dict) -> None:
        """Continue from a state of ``get_rng_state``. Raises KeyError, TypeError or ValueError if it is none."""
        self.rng.bit_generator.state = state

    @property
    def lm_head_weight(self) -> Tensor:
        """The vocabulary head's matrix (V, C): the token embedding's own if weights are tied."""
        return self.wte.weight if self.config.tie_weights else self.lm_head.weight

    @cached_property
    def _sinusoids(self) -> np.ndarray:
        """(block_size, C): sin(t w_j), cos(t w_j) in turn, w_j = 10000^(-2j / C) (Vaswani et al. 2017, section 3.5)."""
        columns = np.arange(self.config.n_embd)
        angles = np.arange(self.config.block_size)[:, None] * 10000.0 ** (-(columns - columns % 2) / len(columns))
        return np.where(columns % 2 == 0, np.sin(angles), np.cos(angles)).astype(self.ln_f.weight.dtype)

    def embed(self, ids: ArrayLike, positions: np.ndarray) -> Tensor:
        """ids (..., T) at positions (T,) -> (..., T, C), the start of the residual stream."""
        x = self.wte(ids)
        if self.config.position == "learned":
            return x + self.wpe(positions)
        return x + self._sinusoids[positions] if self.config.position == "sinusoidal" else x

    def hidden_states(self, ids: ArrayLike, padding_mask: np.ndarray | None = None, cache: Any = None) -> Tensor:
        """ids (B, T) -> (B, T, C), the input of the vocabulary head.

        cache           a ``generation.KeyValueCache``: ids continue the positions that it holds, and are added to them.
                        No gradients then: call it within ``no_grad()``
        padding_mask    (B, T) of bool, False where an id is padding, which is hidden from all. With a cache it is
                        (B, cache.length + T), for the positions in the cache too

        Raises ValueError on a T above block_size, IndexError on an id outside the vocabulary, TypeError if ids are not
        whole numbers.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"ids must have shape (B, T), not {ids.shape}")
        first = 0 if cache is None else cache.length
        end = first + ids.shape[1]
        if end > self.config.block_size:
            raise ValueError(f"{end} tokens, and the model's block_size is {self.config.block_size}")
        x = self.drop(self.embed(ids, np.arange(first, end)))
        for layer, block in enumerate(self.h):
            if cache is not None:
                x = block(x, padding_mask, cache.layers[layer])
            elif self.recompute:
                x = checkpointed(block, self.rng, x, padding_mask)
            else:
                x = block(x, padding_mask)
        if cache is not None:
            cache.length = end
        return self.ln_f(x)

    def forward(self, ids: ArrayLike, padding_mask: np.ndarray | None = None, cache: Any = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V): at each position, scores for the next token. See ``hidden_states``."""
        return self.logits(self.hidden_states(ids, padding_mask, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """The vocabulary head: hidden states (..., C) -> logits (..., V)."""
        return hidden @ self.lm_head_weight.T

    def loss(self, ids: ArrayLike, targets: ArrayLike, padding_mask: np.ndarray | None = None) -> Tensor:
        """ids, targets (B, T) -> the mean cross-entropy in nats, over the targets that are not -100.

        Raises the errors of ``hidden_states``, for targets too; ValueError if their shape isn't that of ids.

        >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
        >>> loss = model.loss([[0, 1, 2]], [[1, 2, 3]])
        >>> round(loss.item(), 2), round(math.log(5), 2)  # a new model guesses
        (1.61, 1.61)
        >>> loss.backward()
        >>> model.wte.weight.grad.shape
        (5, 2)
        """
        return ops.linear_cross_entropy(self.hidden_states(ids, padding_mask), self.lm_head_weight, targets)

    def generate(
        self, ids: np.ndarray | Sequence[ArrayLike], max_new_tokens: int, **options: Any
    ) -> np.ndarray | list[np.ndarray]:
        """Continue texts: ids (B, T) -> (B, T + max_new_tokens). ``options`` are those of ``generation.generate``.

        >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
        >>> model.generate([[1, 2]], max_new_tokens=3, temperature=0).shape
        (1, 5)
        """
        from npgpt import generation  # which imports this file

        return generation.generate(self, ids, max_new_tokens, **options)

    def stream(self, ids: np.ndarray | Sequence[ArrayLike], max_new_tokens: int, **options: Any) -> Iterator["Token"]:
        """Continue texts: their new tokens (``generation.Token``), each as it is made. See ``generation.stream``.

        >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
        >>> len([token.id for token in model.stream([[1, 2]], max_new_tokens=3)])
        3
        """
        from npgpt import generation

        return generation.stream(self, ids, max_new_tokens, **options)

    def quantize(self, weights: str, cache_dtype: str = "f32") -> "Decoder":
        """A ``generation.Decoder`` with copies of the matrices in "bf16", "int8" or "int4"; "f32" rounds nothing.

        It has ``generate`` and ``stream`` too. Except with "f32", it doesn't need this model any more. With "f32" it
        shares some of the model's arrays: after more training make a new one.

        >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
        >>> model.quantize("int8").generate([[1, 2]], max_new_tokens=2, temperature=0).shape
        (1, 4)
        """
        from npgpt.generation import Decoder

        return Decoder(self, weights, cache_dtype)

    def __repr__(self) -> str:
        c = self.config
        return f"GPT({c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, {self.num_parameters():,} parameters)"

    def num_parameters(self) -> int:
        return sum(p.size for p in self.parameters())


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a model's parameters, in the model's order; no memory is taken for them."""
    return {name: p.shape for name, p in GPT.empty(config).named_parameters()}


def parameter_count(config: GPTConfig, embeddings: bool = True) -> int:
    """How many parameters a model has; without ``embeddings``, apart from those of tokens, positions and the head.

    >>> parameter_count(GPTConfig()), parameter_count(GPTConfig(), embeddings=False)
    (124439808, 85056000)
    """
    outside = () if embeddings else ("wte.weight", "wpe.weight", "lm_head.weight")
    return sum(math.prod(shape) for name, shape in parameter_shapes(config).items() if name not in outside)
