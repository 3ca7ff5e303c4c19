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
from npgpt.kernels.machine.addresses import array_at, table_of


def adamw_step_numpy(parameters, gradients, means, mean_squares, lr, beta1, beta2, eps, decays, t):
    """Four lists of arrays, one of each for a parameter and of its shape; all but the gradients are changed.

    decays: each parameter's weight_decay; t counts from 1
    """
    for p, g, m, v, weight_decay in zip(parameters, gradients, means, mean_squares, decays, strict=True):
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * np.square(g)
        p *= 1 - lr * weight_decay
        p -= (lr / (1 - beta1**t)) * m / (np.sqrt(v) * (1 / np.sqrt(1 - beta2**t)) + eps)


def adamw_step_numba(parameters, gradients, means, mean_squares, lr, beta1, beta2, eps, decays, t):
    """All parameters in one launch, chunks of them in parallel; one pass over the four arrays."""
    if parameters:
        number = parameters[0].dtype.type
        keeps = (1 - lr * np.array(decays, np.float64)).astype(number)
        step_size, root = number(lr / (1 - beta1**t)), number(1 / np.sqrt(1 - beta2**t))
        numbers = (number(beta1), number(1 - beta1), number(beta2), number(1 - beta2), number(eps))
        gradients = [np.ascontiguousarray(g, number) for g in gradients]
        table = table_of([parameters, gradients, means, mean_squares])
        _step(*table, keeps, step_size, root, *numbers, work=sum(p.size for p in parameters))


@parallel_jit
def _step(addresses, sizes, owners, keeps, step_size, root, beta1, rest1, beta2, rest2, eps):
    for chunk in prange(sizes.size):
        p, g = array_at(addresses[chunk, 0], sizes[chunk], eps), array_at(addresses[chunk, 1], sizes[chunk], eps)
        m, v = array_at(addresses[chunk, 2], sizes[chunk], eps), array_at(addresses[chunk, 3], sizes[chunk], eps)
        keep = keeps[owners[chunk]]
        for i in range(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * (g[i] * g[i])
            p[i] = p[i] * keep - step_size * m[i] / (np.sqrt(v[i]) * root + eps)
