"""One step of AdamW (Loshchilov & Hutter 2019), in place.

    m = beta1 m + (1 - beta1) g             the gradient's running mean
    v = beta2 v + (1 - beta2) g^2           and its running mean square
    p = p - lr weight_decay p               decay acts on the weight itself and not through the gradient
    p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

m and v start at zero and are too small at first; after t steps the weights of the mean add up to 1 - beta^t, so
dividing by that makes them means (Kingma & Ba 2015, section 3).
"""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit

CHUNK = 1 << 14


def adamw_step_numpy(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
    """p, g, m, v (...) of one shape; p, m and v are changed. t counts from 1."""
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * np.square(g)
    p *= 1 - lr * weight_decay
    p -= (lr / (1 - beta1**t)) * m / (np.sqrt(v) * (1 / np.sqrt(1 - beta2**t)) + eps)


def adamw_step_numba(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
    """All of it in one pass over the four arrays, chunks in parallel."""
    number = p.dtype.type
    step_size, root = number(lr / (1 - beta1**t)), number(1 / np.sqrt(1 - beta2**t))
    numbers = (number(beta1), number(1 - beta1), number(beta2), number(1 - beta2), number(eps))
    g = np.ascontiguousarray(g)
    p, g, m, v = (x.reshape(-1, copy=False) for x in (p, g, m, v))
    _step(p, g, m, v, step_size, root, number(1 - lr * weight_decay), *numbers)


@parallel_jit
def _step(p, g, m, v, step_size, root, keep, beta1, rest1, beta2, rest2, eps):
    for chunk in prange((p.size + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(p.size, (chunk + 1) * CHUNK)):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * (g[i] * g[i])
            p[i] = p[i] * keep - step_size * m[i] / (np.sqrt(v[i]) * root + eps)
