"""The key/value cache: what attention needs of the tokens that have been through the model already.

Without it each new token would cost a pass over the whole text. With it, it costs one position's work. Several texts
(rows) share one cache, and each is filled as far as it has got.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from npgpt.config import GPTConfig
from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16


class KeyValueCache:
    """Keys and values of R texts in all layers.

    keys, values    (L, R, H, S, D), S being the capacity: the positions of one head are contiguous
    lengths         (R,) int64: how many positions of each row are filled. A smaller number forgets the last ones
    dtype           float32, float64, or "bf16": half the memory of float32. uint16 arrays then hold bfloat16's bits

    The model takes one as ``model(ids, cache=cache)`` if all rows are filled equally far, else some that are:
    ``model(ids, cache=cache.rows([0, 3]))``. It reads ``cache.length``, the number of positions that they hold, and its
    layers store their keys and values in ``cache.layers``.

    >>> cache = KeyValueCache(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), rows=3)
    >>> cache.keys.shape, cache.lengths
    ((1, 3, 1, 4, 2), array([0, 0, 0]))
    """

    def __init__(self, config: GPTConfig, rows: int, dtype: DTypeLike = np.float32, capacity: int | None = None):
        """capacity: positions of a row; None: the model's block_size. Memory is touched only as it is filled."""
        self.config = config
        self.capacity = config.block_size if capacity is None else capacity
        self.is_bfloat16 = dtype == "bf16"
        shape = (config.n_layer, rows, config.n_head, self.capacity, config.head_size)
        stored = np.dtype(np.uint16 if self.is_bfloat16 else dtype)
        self.keys, self.values = np.empty(shape, stored), np.empty(shape, stored)
        self.lengths = np.zeros(rows, np.int64)

    def rows(self, rows: Iterable[int]) -> "CacheRows":
        """Some rows, in this order, for ``GPT.hidden_states``. Raises ValueError if they are not filled equally far."""
        return CacheRows(self, list(rows))

    def copy_rows(self, source: int, targets: Iterable[int]) -> None:
        """Let other rows begin with what one row holds, as several samples of one prompt do."""
        for target in targets:
            self.copy_from(self, source, target, int(self.lengths[source]))

    def copy_from(self, other: "KeyValueCache", source: int, target: int, length: int) -> None:
        """Let the row ``target`` hold the first ``length`` positions of a row of this or another cache, and no more.

        Raises ValueError if the other cache has another number of layers or heads, or another dtype, or there is no
        room. That both are of one model is for the caller to know.
        """
        if other._position != self._position:
            raise ValueError(f"a row of {other._position} can't be copied to a cache of {self._position}")
        if not 0 <= length <= min(other.lengths[source], self.capacity):
            held = f"a row that holds {other.lengths[source]} to one of {self.capacity}"
            raise ValueError(f"{length} positions can't be copied from {held}")
        if other is not self or source != target:
            self.lengths[target] = 0  # should copying fail, it holds nothing
            self.keys[:, target, :, :length] = other.keys[:, source, :, :length]
            self.values[:, target, :, :length] = other.values[:, source, :, :length]
        self.lengths[target] = length

    @property
    def _position(self) -> str:
        L, _, H, _, D = self.keys.shape
        return f"{'bfloat16' if self.is_bfloat16 else self.keys.dtype} (L, H, D) = {(L, H, D)}"

    @property
    def layers(self) -> list["LayerCache"]:
        return self.rows(range(len(self.lengths))).layers

    @property
    def length(self) -> int:
        """The number of positions that all rows hold. May be set to a smaller one, to go back."""
        return self.rows(range(len(self.lengths))).length

    @length.setter
    def length(self, length: int) -> None:
        self.lengths[:] = length


class CacheRows:
    """Rows of a cache that are filled equally far: what ``GPT.hidden_states`` takes as a cache."""

    def __init__(self, cache: KeyValueCache, rows: list[int]):
        lengths = cache.lengths[rows]
        if not rows or (lengths != lengths[0]).any():
            raise ValueError(f"rows of a cache that go through the model together hold as much, not {lengths.tolist()}")
        if len(set(rows)) < len(rows) or min(rows) < 0:
            raise ValueError(f"rows of a cache are distinct and counted from 0, not {rows}")
        self.cache = cache
        in_order = rows == list(range(rows[0], rows[0] + len(rows)))
        # A slice gives views of the cache's memory. Any other choice of rows is a copy, made in each layer.
        self.index = slice(rows[0], rows[-1] + 1) if in_order else np.array(rows)
        self.layers = [LayerCache(self, layer) for layer in range(cache.config.n_layer)]

    @property
    def length(self) -> int:
        """The number of positions that have been through the model."""
        return int(self.cache.lengths[self.index][0])

    @length.setter
    def length(self, length: int) -> None:
        self.cache.lengths[self.index] = length


class LayerCache:
    """One layer of some rows."""

    def __init__(self, rows: CacheRows, layer: int):
        self._rows, self._layer = rows, layer
        self.has_stored = False  # whether ``store`` has been called

    @property
    def length(self) -> int:
        return self._rows.length

    def store(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append k and v (B, T, H, D) of T new positions -> those of all positions, (B, length + T, H, D).

        With bfloat16 the new ones come back rounded too, so that a text gives the same in one piece or in several.
        ``length`` stays: the model sets it when all layers have stored theirs, so an interrupted pass leaves no trace.
        Raises ValueError, and stores nothing, if there is no room or the arrays are of another model or batch.
        """
        cache, rows = self._rows.cache, self._rows.index
        keys, values = cache.keys[self._layer], cache.values[self._layer]
        (_, H, S, D), B = keys.shape, len(cache.lengths[rows])
        first, end = self.length, self.length + k.shape[1]
        dtype = np.dtype(np.float32) if cache.is_bfloat16 else keys.dtype
        if not k.shape == v.shape == (B, end - first, H, D) or not k.dtype == v.dtype == dtype:
            given = f"keys {k.dtype} {k.shape} and values {v.dtype} {v.shape}"
            raise ValueError(f"a cache of {dtype} for B, H, D = {B}, {H}, {D} can't store {given}")
        if end > S:
            raise ValueError(f"a cache of {S} positions that holds {first} can't store {end - first} more")
        stored = []
        for memory, new in ((keys, k), (values, v)):
            new = new.transpose(0, 2, 1, 3)
            memory[rows, :, first:end] = f32_to_bf16(new) if cache.is_bfloat16 else new
            held = memory[rows, :, :end]
            stored.append((bf16_to_f32(held) if cache.is_bfloat16 else held).transpose(0, 2, 1, 3))
        self.has_stored = True
        return stored[0], stored[1]
