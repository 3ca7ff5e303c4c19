"""One step of AdamW (Loshchilov & Hutter 2019), in place.

    m = beta1 m + (1 - beta1) g             running mean of the gradient
    v = beta2 v + (1 - beta2) g^2           running mean of its square
    p = p - lr weight_decay p               weight decay, which doesn't go through m and v
    p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

The divisors 1 - beta^t correct a bias. m starts at 0, so after t steps it is the weighted sum

    m = (1 - beta1) (g_t + beta1 g_{t-1} + ... + beta1^(t-1) g_1)

whose weights add up to 1 - beta1^t, and not to 1. Divided by that, m is a weighted mean of gradients. v in the same way
is one of squares (Kingma & Ba 2015, section 3). While a gradient stays the same, the first mean is g, and the root of
the second |g|: p moves by lr at each step, whatever the size of g.
"""

import numpy as np
from numba import prange

from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.machine.addresses import array_at, pointer_table

Arrays = list[np.ndarray]


def adamw_step_numpy(
    parameters: Arrays, gradients: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays,
    lr: float, beta1: float, beta2: float, eps: float, decays: list[float], t: int, gradient_scale: float = 1.0
) -> None:  # fmt: skip
    """Four lists with an array for each parameter, of its shape. All but the gradients are changed in place.

    exp_avgs, exp_avg_sqs   the m and the v of each parameter
    decays                  each parameter's weight_decay
    t                       the number of this step, from 1
    gradient_scale          the gradients are multiplied by it first; it is below 1 to clip them
    """
    for p, g, m, v, weight_decay in zip(parameters, gradients, exp_avgs, exp_avg_sqs, decays, strict=True):
        g = gradient_scale * g
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * np.square(g)
        p *= 1 - lr * weight_decay
        p -= (lr / (1 - beta1**t)) * m / (np.sqrt(v) * (1 / np.sqrt(1 - beta2**t)) + eps)


def adamw_step_numba(
    parameters: Arrays, gradients: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays,
    lr: float, beta1: float, beta2: float, eps: float, decays: list[float], t: int, gradient_scale: float = 1.0
) -> None:  # fmt: skip
    """All parameters in one kernel launch, chunks in parallel. One pass over the four arrays."""
    if parameters:
        scalar = parameters[0].dtype.type
        decay_factors = (1 - lr * np.array(decays, np.float64)).astype(scalar)
        step_size, root = scalar(lr / (1 - beta1**t)), scalar(1 / np.sqrt(1 - beta2**t))
        gradient_scale = scalar(gradient_scale)
        betas_and_eps = (scalar(beta1), scalar(1 - beta1), scalar(beta2), scalar(1 - beta2), scalar(eps))
        gradients = [np.ascontiguousarray(g, scalar) for g in gradients]
        table = pointer_table([parameters, gradients, exp_avgs, exp_avg_sqs])
        _step(
            *table, gradient_scale, decay_factors, step_size, root, *betas_and_eps, work=sum(p.size for p in parameters)
        )


@parallel_jit
def _step(
    addresses, sizes, owners, gradient_scale, decay_factors, step_size, root,
    beta1, one_minus_beta1, beta2, one_minus_beta2, eps
):  # fmt: skip
    for chunk in prange(sizes.size):
        p, g = array_at(addresses[chunk, 0], sizes[chunk], eps), array_at(addresses[chunk, 1], sizes[chunk], eps)
        m, v = array_at(addresses[chunk, 2], sizes[chunk], eps), array_at(addresses[chunk, 3], sizes[chunk], eps)
        decay_factor = decay_factors[owners[chunk]]
        for i in range(p.size):
            gradient = gradient_scale * g[i]
            m[i] = beta1 * m[i] + one_minus_beta1 * gradient
            v[i] = beta2 * v[i] + one_minus_beta2 * (gradient * gradient)
            p[i] = p[i] * decay_factor - step_size * m[i] / (np.sqrt(v[i]) * root + eps)
