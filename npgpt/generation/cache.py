"""The key/value cache: what attention needs of the tokens that have been through the model already."""

import numpy as np
from numpy.typing import DTypeLike

from npgpt.config import GPTConfig


class LayerCache:
    """One layer's keys and values, (B, block_size, H, D) each, of which the first ``length`` positions are filled."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: DTypeLike):
        self.keys, self.values = np.empty(shape, dtype), np.empty(shape, dtype)
        self.length = 0

    def store(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store k and v (B, T, H, D) of T new positions behind the others -> those of all positions, as views.

        ``length`` stays: the model sets it when all layers have stored theirs, so an interrupted pass leaves no trace.
        Raises ValueError, and stores nothing, if there is no room or the arrays are of another model or batch.
        """
        B, block_size, H, D = self.keys.shape
        first, end = self.length, self.length + k.shape[1]
        if not k.shape == v.shape == (B, end - first, H, D) or not k.dtype == v.dtype == self.keys.dtype:
            given = f"keys {k.dtype} {k.shape} and values {v.dtype} {v.shape}"
            raise ValueError(f"a cache of {self.keys.dtype} for B, H, D = {B}, {H}, {D} can't store {given}")
        if end > block_size:
            raise ValueError(f"a cache of {block_size} positions that holds {first} can't store {end - first} more")
        self.keys[:, first:end], self.values[:, first:end] = k, v
        return self.keys[:, :end], self.values[:, :end]


class KeyValueCache:
    """A LayerCache for each layer. A new token then costs one position's work instead of the whole text's."""

    def __init__(self, config: GPTConfig, batch: int, dtype: DTypeLike = np.float32):
        shape = (batch, config.block_size, config.n_head, config.head_size)
        self.layers = [LayerCache(shape, dtype) for _ in range(config.n_layer)]

    @property
    def length(self) -> int:
        """The number of positions that have been through the model. May be set to a smaller one, to go back."""
        return self.layers[0].length

    @length.setter
    def length(self, length: int) -> None:
        for layer in self.layers:
            layer.length = length
