"""The decoder: a model prepared for generating. It computes the logits of the next token for many texts at once."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.config import CACHE_DTYPES, WEIGHTS
from npgpt.errors import ConfigError
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.changed_part import changed_part
from npgpt.generation.packed_model import PackedGPT
from npgpt.generation.token import Token
from npgpt.gpt import GPT
from npgpt.kernels.decode_weights import DecodeWeights
from npgpt.kernels.machine.memory import keep_freed_memory
from npgpt.layers import dropout_off
from npgpt.ops.rotary import rotary_angles
from npgpt.tensor import Tensor, no_grad


class Decoder:
    """Computes logits of texts whose keys and values are in the rows of a cache. It holds no text itself.

    weights         "f32", "bf16", "int8" or "int4": the decoder has copies of the matrices in this form, and fewer bits
                    make a token cheaper (kernels/packed.py). With "f32" they are made at the first step, and some of
                    the model's arrays are shared: don't change the model while the decoder is in use. None: no
                    copies, so nothing is prepared, and each token takes longer. Packed weights compute what the config
                    says. So a model whose parts were changed in code is taken as with None, and fewer bits are a
                    ConfigError. Generating calls the model's hidden_states and logits, not its forward
    cache_dtype     of new caches: "f32", the model's own precision, or "bf16", half of float32's memory

    ``rows`` are numbers of the cache's rows. Each row may hold another number of positions, which count from 0 in each.
    Dropout is off, and the model's mode stays as it is. Nothing is recorded for gradients. Making a decoder that packs
    keeps freed memory in this process (kernels/machine/memory.py), as training does.

    >>> from npgpt import GPT, GPTConfig
    >>> decoder = Decoder(GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0))
    >>> cache = decoder.new_cache(rows=2)
    >>> decoder.prefill([[1, 2, 3], [4]], cache, [0, 1]).shape
    (2, 5)
    >>> decoder.step([1], cache, [1]).shape, cache.lengths
    ((1, 5), array([3, 2]))
    """

    def __init__(self, model: GPT, weights: str | None = "f32", cache_dtype: str = "f32"):
        if weights is not None and weights not in WEIGHTS:
            raise ConfigError(f"weights must be one of {', '.join(WEIGHTS)}, not {weights!r}")
        if cache_dtype not in CACHE_DTYPES:
            raise ConfigError(f"cache_dtype must be one of {', '.join(CACHE_DTYPES)}, not {cache_dtype!r}")
        self.config, self.dtype = model.config, model.parameters()[0].dtype
        if cache_dtype == "bf16" and self.dtype != np.float32:
            raise ConfigError(f"cache_dtype bf16 goes with a model in float32, not in {self.dtype}")
        self.weights, self.cache_dtype = weights, cache_dtype
        self.model = model
        if weights is None or (weights == "f32" and (self.dtype != np.float32 or kernels.BACKEND == "numpy")):
            return
        if self.dtype != np.float32:
            raise ConfigError(f"only models of float32 have weights in {weights}, not those of {self.dtype}")
        if weights == "f32" and changed_part(model) is not None:
            return  # the model itself computes each step
        self.model = PackedGPT(model, weights)
        keep_freed_memory()  # what a prompt takes, the next one takes again

    @classmethod
    def of(cls, model: "GPT | Decoder") -> "Decoder":
        """A model as it is if it is prepared already; else prepared as a Decoder is by default."""
        return cls(model) if isinstance(model, GPT) else model

    def pack(self) -> None:
        """Pack the matrices now, if no step has done so: products of a few rows are then quicker."""
        _ = self._step_weights

    @cached_property
    def _step_weights(self) -> DecodeWeights | None:
        """What a step reads. In float32 the matrices are packed when the first step needs it: a first token doesn't."""
        return self.model.decode_weights() if isinstance(self.model, PackedGPT) else None

    def new_cache(self, rows: int = 1, capacity: int | None = None) -> KeyValueCache:
        """An empty cache for ``rows`` texts of up to ``capacity`` positions; None: the model's block_size."""
        dtype = "bf16" if self.cache_dtype == "bf16" else self.dtype
        return KeyValueCache(self.config, rows, dtype, capacity)

    def prefill(
        self, prompts: Sequence[ArrayLike], cache: KeyValueCache | None = None, rows: Sequence[int] | None = None
    ) -> np.ndarray:
        """n lists of ids, of any lengths, each continuing its row -> logits (n, V) after each one's last id.

        Rows that are filled equally far go through the model in one pass, the shorter prompts padded on the right. No
        mask hides the padding: a position sees only those before it, so no id sees the padding after it. The padding's
        own keys and values lie beyond the row's length, where nobody reads them, until the next ids overwrite them.

        rows    None: 0 to n - 1. Without a cache nothing is kept, and the prompts begin at position 0

        Raises ValueError on an empty prompt, or if there is no room for one.
        """
        ids = [np.asarray(prompt) for prompt in prompts]
        if any(prompt.ndim != 1 or prompt.size == 0 for prompt in ids):
            raise ValueError(f"prompts need at least one id, not the shapes {[prompt.shape for prompt in ids]}")
        if cache is None:
            return self._last_logits(ids, None)
        rows = range(len(ids)) if rows is None else rows
        if len(rows) != len(ids):
            raise ValueError(f"{len(ids)} prompts for {len(rows)} rows")
        logits = np.empty((len(ids), self.config.vocab_size), self.dtype)
        for group in _rows_of_equal_length(cache, rows):
            group_rows = [rows[i] for i in group]
            view = cache.rows(group_rows)
            first = view.length
            logits[group] = self._last_logits([ids[i] for i in group], view)
            cache.lengths[group_rows] = [first + len(ids[i]) for i in group]
        return logits

    def extend(self, ids: ArrayLike, cache: KeyValueCache, row: int) -> np.ndarray:
        """T ids that continue one row -> logits (T, V), those after each of the ids."""
        self.pack()
        hidden = self._hidden_states(np.asarray(ids)[None], cache.rows([row]))
        return self._logits(hidden[0])

    def step(self, ids: ArrayLike, cache: KeyValueCache, rows: Sequence[int]) -> np.ndarray:
        """ids (n,), one to continue each of n rows -> logits (n, V) after them. Raises ValueError if a row is full."""
        ids = np.asarray(ids)
        if self._step_weights is None:
            return self.prefill(list(ids[:, None]), cache, rows)
        index = np.asarray(rows, np.int64)
        if ids.shape != index.shape:
            raise ValueError(f"ids of shape {ids.shape} for {len(index)} rows")
        lengths = cache.lengths[index]
        room = min(cache.capacity, self.config.block_size)
        if (lengths >= room).any():
            raise ValueError(f"rows that hold {lengths.tolist()} of {room} positions can't take one more")
        with no_grad():
            x = self.model.embed(ids, lengths).data
        rotary = self.config.position == "rotary"
        angles = rotary_angles(lengths, self.config.head_size, self.dtype) if rotary else None
        logits = kernels.decode_step(self._step_weights, x, cache.keys, cache.values, index, lengths, angles)
        cache.lengths[index] += 1
        return logits

    def stream(self, ids: np.ndarray | Sequence[ArrayLike], max_new_tokens: int, **options: Any) -> Iterator[Token]:
        """Continue texts, as ``generation.stream``."""
        from npgpt.generation.stream import stream  # which imports this file

        return stream(self, ids, max_new_tokens, **options)

    def generate(
        self, ids: np.ndarray | Sequence[ArrayLike], max_new_tokens: int, **options: Any
    ) -> np.ndarray | list[np.ndarray]:
        """Continue texts, as ``generation.generate``."""
        from npgpt.generation.stream import generate

        return generate(self, ids, max_new_tokens, **options)

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of all weights, as this decoder keeps them."""
        if isinstance(self.model, PackedGPT):
            yield from self.model.named_matrices()
        yield from ((name, p.data) for name, p in self.model.named_parameters())

    def _last_logits(self, ids, cache):
        """n lists of ids, to rows of equal length -> logits (n, V) after each one's last id"""
        lengths = np.array([len(prompt) for prompt in ids])
        padded = np.zeros((len(ids), lengths.max()), np.result_type(*ids))
        for row, prompt in zip(padded, ids, strict=True):
            row[: len(prompt)] = prompt
        hidden = self._hidden_states(padded, cache)
        return self._logits(hidden[np.arange(len(ids)), lengths - 1])

    @no_grad()
    def _hidden_states(self, ids, cache):
        with dropout_off():
            hidden = self.model.hidden_states(ids, cache=cache).data
        for i in range(0 if cache is None else len(self.model.h)):
            if not cache.layers[i].has_stored:  # later tokens would not see these
                advice = "hand it to ops.causal_self_attention, or generate with use_cache=False"
                raise RuntimeError(f"the attention of h.{i} stored nothing in the cache that it was given: {advice}")
        return hidden

    @no_grad()
    def _logits(self, hidden):
        """hidden (n, C) -> (n, V)"""
        return self.model.logits(Tensor(hidden)).data


def _rows_of_equal_length(cache, rows):
    """Indices into ``rows``, by how much the rows hold."""
    lengths = cache.lengths[list(rows)]
    return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
