"""The key/value cache: what attention needs of the tokens that have been through the model already."""

import numpy as np

from npgpt import kernels
from npgpt.config import GPTConfig


class LayerCache:
    """One layer's keys and values, (B, block_size, H, D) each, of which the first ``length`` positions are filled.

    Training hands attention arrays with gaps, queries with keys and values between them. Numba would compile it a
    second and a third time for arrays without, which takes seconds each; so there are gaps here, too.
    """

    def __init__(self, shape, dtype):
        self.keys, self.values = _with_gaps(shape, dtype)
        self.length = 0

    def attend(self, qkv: np.ndarray, n_head: int, scale: float) -> np.ndarray:
        """Append the keys and values of T new positions and let the new queries look at all there are.

        qkv (B, T, 3C) -> (B, T, C)
        """
        B, T, C3 = qkv.shape
        q, k, v = (qkv.reshape(B, T, 3, n_head, -1)[:, :, i] for i in range(3))
        end = self.length + T
        if q.flags.c_contiguous:
            whole, q = q, _with_gaps(q.shape, q.dtype)[0]
            q[...] = whole
        self.keys[:, self.length : end] = k
        self.values[:, self.length : end] = v
        self.length = end
        y, *_ = kernels.attention_forward(q, self.keys[:, :end], self.values[:, :end], scale)
        return y.reshape(B, T, C3 // 3)


def _with_gaps(shape, dtype):
    """Two arrays (B, T, H, D), each with the other between its heads."""
    *others, D = shape
    both = np.empty((*others, 2, D), dtype)
    return both[..., 0, :], both[..., 1, :]


class KeyValueCache:
    """A LayerCache for each layer. A new token then costs one position's work instead of the whole text's."""

    def __init__(self, config: GPTConfig, batch: int, dtype=np.float32):
        shape = (batch, config.block_size, config.n_head, config.head_size)
        self.layers = [LayerCache(shape, dtype) for _ in range(config.n_layer)]

    @property
    def length(self) -> int:
        """How many positions it holds."""
        return self.layers[-1].length
