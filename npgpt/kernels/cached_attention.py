"""Attention of one new position of one head, on one thread. It looks at the positions in the cache and at itself.

attention.py has the formulas. decode.py calls this within the step for all layers. Keys and values are float32, or
uint16 that hold bfloat16.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.exp import exp
from npgpt.kernels.jit import INLINED, jit


@jit
def turn(x, cos, sin):
    """Rotate x (D,) in place; cos, sin (D / 2,) of its position. ops/rotary.py says what this is."""
    half = cos.size
    for j in range(half):
        a, b = x[j], x[half + j]
        x[j] = a * cos[j] - b * sin[j]
        x[half + j] = a * sin[j] + b * cos[j]


@jit
def store(x, out):
    """Write x (D,) of float32 into the cache, out (D,)."""
    for d in range(out.size):
        out[d] = _as_stored(x[d], out[d])


@jit
def attend(q, keys, values, n, scale, scores, y):
    """y = softmax(scale q keys^T) values over the first ``n`` positions.

    q, y (D,), keys and values (S, D); ``scores`` (S,) is memory for the softmax.
    """
    largest = np.float32(-np.inf)
    for j in range(n):
        key, total = keys[j], np.float32(0)
        for d in range(q.size):
            total += q[d] * _as_float32(key[d])
        scores[j] = total * scale
        largest = max(largest, scores[j])
    total = np.float32(0)
    for j in range(n):
        scores[j] = exp(scores[j] - largest)
        total += scores[j]
    for d in range(y.size):
        y[d] = np.float32(0)
    for j in range(n):
        value, p = values[j], scores[j] / total
        for d in range(y.size):
            y[d] += p * _as_float32(value[d])


def _as_float32(x):
    """An element of the cache as float32."""


@overload(_as_float32, jit_options=INLINED)
def _as_float32_of(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


def _as_stored(x, like):
    """A float32 as an element of the cache: of float32, or bfloat16 rounded to the nearest, halves to even."""


@overload(_as_stored, jit_options=INLINED)
def _as_stored_of(x, like):
    if like == types.uint16:

        def rounded(x, like):
            bits = np.float32(x).view(np.uint32)
            if x != x:
                return np.uint16((bits >> np.uint32(16)) | np.uint32(0x40))  # rounding could carry NaN into the sign
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return rounded
    return lambda x, like: x
