"""Dropout (Srivastava et al. 2014), with a mask that is computed when it is needed, not stored.

    keep_i = 1 with probability 1 - p, else 0           y_i = x_i keep_i / (1 - p)

The expectation is kept: E[y_i] = (1 - p) x_i / (1 - p) + p 0 = x_i. So nothing need be scaled when dropout is off.

Derivation. ∂y_i/∂x_i = keep_i / (1 - p), so dx_i = dy_i keep_i / (1 - p): the same function, applied to dy.

Where keep_i is 0, x_i is still multiplied by it. So NaN and infinity reach the output (0 * inf is NaN), and a mistake
isn't hidden by chance.

keep_i is computed from the i-th output of the SplitMix64 generator (Steele, Lea & Flood 2014), a function of the seed
and of i alone. So the backward pass recomputes the mask from the seed, and the result doesn't depend on the threads.
"""

import numpy as np
from numba import prange

from npgpt.kernels.chunks import CHUNK_SIZE, chunk_view, n_chunks
from npgpt.kernels.jit import exact_jit, parallel_jit

_u = np.uint64
_GAMMA, _MIX1, _MIX2 = _u(0x9E3779B97F4A7C15), _u(0xBF58476D1CE4E5B9), _u(0x94D049BB133111EB)


def dropout_threshold(p: float) -> np.uint64:
    """keep_i is 1 if the upper 32 bits of the i-th random number are at least this."""
    return _u(round(p * 2**32))


def keep_mask_numpy(shape: tuple[int, ...], p: float, seed: int) -> np.ndarray:
    """-> (...) of bool, True where the element is kept; i counts the elements in C order, from 0.

    >>> keep_mask_numpy((2, 3), p=0.5, seed=1).tolist()
    [[True, True, True], [False, False, True]]
    """
    i = np.arange(1, np.prod(shape, dtype=np.int64) + 1, dtype=np.uint64)
    z = _u(seed) + i * _GAMMA  # integers modulo 2^64
    z = (z ^ (z >> _u(30))) * _MIX1
    z = (z ^ (z >> _u(27))) * _MIX2
    z = z ^ (z >> _u(31))
    return ((z >> _u(32)) >= dropout_threshold(p)).reshape(shape)


def dropout_numpy(x: np.ndarray, p: float, seed: int) -> np.ndarray:
    """x (...), 0 <= p < 1, seed from 0 to 2^64 - 1 -> y (...)"""
    return x * (keep_mask_numpy(x.shape, p, seed) * x.dtype.type(1 / (1 - p)))


@exact_jit
def is_kept(seed, i, threshold):
    """keep_i of ``keep_mask_numpy`` for one element; all three are uint64."""
    z = seed + (i + _u(1)) * _GAMMA
    z = (z ^ (z >> _u(30))) * _MIX1
    z = (z ^ (z >> _u(27))) * _MIX2
    z = z ^ (z >> _u(31))
    return (z >> _u(32)) >= threshold


def dropout_numba(x: np.ndarray, p: float, seed: int) -> np.ndarray:
    """Chunks in parallel."""
    x = np.asarray(x, order="C")
    y = np.empty_like(x)
    _drop(x.reshape(-1), x.dtype.type(1 / (1 - p)), _u(seed), dropout_threshold(p), y.reshape(-1))
    return y


@parallel_jit
def _drop(x, scale, seed, threshold, y):
    for chunk in prange(n_chunks(x.size)):
        x_part, y_part, first = chunk_view(x, chunk), chunk_view(y, chunk), _u(chunk * CHUNK_SIZE)
        for i in range(x_part.size):
            y_part[i] = x_part[i] * (scale if is_kept(seed, first + _u(i), threshold) else x.dtype.type(0))
