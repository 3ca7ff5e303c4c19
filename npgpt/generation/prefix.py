"""The beginning of texts, computed once and kept: what many prompts begin with need not go through the model again."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from npgpt.checkpoints.safetensors import open_safetensors, write_safetensors
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, lazy_array, name_of
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.errors import CheckpointError
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.decoder import Decoder
from npgpt.gpt import GPT
from npgpt.kernels.bfloat16 import f32_to_bf16

_KEY = "npgpt_prefix"  # in the metadata of the safetensors file
_TENSORS = {"ids", "keys", "values"}


def shared_length(ids: np.ndarray, prompt: np.ndarray) -> int:
    """How many first ids a text (n,) and a prompt (m,) have in common, but at most m - 1.

    >>> shared_length(np.array([1, 2, 3]), np.array([1, 2, 4])), shared_length(np.array([1, 2, 3]), np.array([1, 2]))
    (2, 1)
    """
    n = min(len(ids), len(prompt) - 1)
    different = np.flatnonzero(ids[:n] != prompt[:n])
    return int(different[0]) if different.size else n


@dataclass(frozen=True, eq=False)
class Prefix:
    """A text that has been through a model: its ids (n,), and a cache of one row that holds their keys and values.

    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> prefix = Prefix.compute(model, [1, 2, 3])
    >>> prefix.shared_with([1, 2, 4]), prefix.shared_with([1, 2]), prefix.shared_with([4])
    (2, 1, 0)
    """

    ids: np.ndarray
    cache: KeyValueCache

    @classmethod
    def compute(cls, model: GPT | Decoder, ids: ArrayLike) -> "Prefix":
        """Send ids (n,) through the model. Raises ValueError if there are none, or more than its block_size."""
        ids = np.array(ids)
        decoder = Decoder.of(model)
        cache = decoder.new_cache(1, capacity=max(1, ids.size))
        decoder.prefill([ids], cache, [0])
        return cls(ids, cache)

    @classmethod
    def of_row(cls, cache: KeyValueCache, row: int, ids: ArrayLike) -> "Prefix":
        """Copy what a row of a cache holds, so that the row can go on. ids (n,): those that it holds."""
        ids = np.array(ids)
        n = int(cache.lengths[row])
        if ids.shape != (n,):
            raise ValueError(f"the row holds {n} positions, and ids have the shape {ids.shape}")
        copy = KeyValueCache(cache.config, 1, "bf16" if cache.is_bfloat16 else cache.keys.dtype, max(1, n))
        copy.copy_from(cache, row, 0, n)
        return cls(ids, copy)

    def shared_with(self, prompt: ArrayLike) -> int:
        """How many of a prompt's first ids need not be computed: those that both begin with, but never its last one.

        The last id always goes through the model, because the logits after it are not kept.
        """
        return shared_length(self.ids, np.asarray(prompt))

    def save(self, path: str | Path, decoder: Decoder) -> None:
        """Write a safetensors file, which says with which model it was made. Raises CheckpointError if it can't be."""
        n = len(self.ids)
        tensors: dict[str, np.ndarray | LazyTensor] = {"ids": self.ids.astype(np.int64)}
        for name, array in (("keys", self.cache.keys), ("values", self.cache.values)):
            tensors[name] = lazy_array(array[:, 0, :, :n], "BF16" if self.cache.is_bfloat16 else None)
        write_safetensors(path, tensors, {_KEY: json.dumps(_made_with(decoder))})

    @classmethod
    def load(cls, path: str | Path, decoder: Decoder) -> "Prefix":
        """Read a file that ``save`` wrote with the same model: configuration, weights and the cache's dtype.

        Raises CheckpointError if it was another one, or anything in the file is not as it must be.
        """
        tensors, metadata = open_safetensors(MappedFile(path))
        if _KEY not in metadata or tensors.keys() != _TENSORS:
            raise CheckpointError(f"{path} is not a saved prefix")
        if parse_json(metadata[_KEY], f"{path}: __metadata__ {_KEY}") != _made_with(decoder):
            raise CheckpointError(f"{path} was made with another model, or other weights: make it again")
        config = decoder.config
        ids = tensors["ids"]
        if ids.dtype != "I64" or len(ids.shape) != 1 or not 1 <= ids.size <= config.block_size:
            allowed = f"1 to {config.block_size:,} ids were expected"
            raise CheckpointError(f"{path}: tensor ids: {allowed}, not {ids.dtype} {ids.shape}")
        found = np.array(ids.numpy())
        if found.min() < 0 or found.max() >= config.vocab_size:
            raise CheckpointError(f"{path}: tensor ids: one is outside the vocabulary of {config.vocab_size:,}")
        cache = decoder.new_cache(1, capacity=len(found))
        for name, array in (("keys", cache.keys), ("values", cache.values)):
            _read(tensors[name], array[:, 0], cache.is_bfloat16, f"{path}: tensor {name}")
        cache.lengths[0] = len(found)
        return cls(found, cache)


def _read(tensor, out, is_bfloat16, place):
    dtype = "BF16" if is_bfloat16 else name_of(out.dtype)
    if (tensor.dtype, tensor.shape) != (dtype, out.shape):
        raise CheckpointError(f"{place}: {dtype} {out.shape} was expected, not {tensor.dtype} {tensor.shape}")
    for first, elements in tensor.chunks():
        if not np.isfinite(elements).all():
            raise CheckpointError(f"{place}: NaN or infinity in it")
        out[first : first + len(elements)] = f32_to_bf16(elements) if is_bfloat16 else elements


def _made_with(decoder):
    """What keys and values depend on: the model's configuration, its weights (a checksum), how both are computed."""
    checksum = 0
    for name, array in decoder.named_arrays():
        checksum = zlib.crc32(np.ascontiguousarray(array), zlib.crc32(name.encode(), checksum))
    config = {name: value for name, value in asdict(decoder.config).items() if name != "dropout"}
    return {"model": config, "checksum": checksum, "weights": decoder.weights, "cache_dtype": decoder.cache_dtype}
