from numbers import Integral

from npgpt import kernels
from npgpt.tensor import Tensor, check_tensors


def dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """Zero each element with probability p, and scale the others up.

    x (...), 0 <= p < 1, seed a whole number from 0 to 2^64 - 1 -> (...)

    Forward     y = x * keep / (1 - p)          keep is 1 with probability 1 - p, else 0, and comes from the seed
    Backward    dx = dy * keep / (1 - p)        since ∂y_i/∂x_i = keep_i / (1 - p)

    The expectation is kept: E[y] = (1 - p) x / (1 - p) + p 0 = x. kernels/dropout.py makes keep from the seed.

    Source: Srivastava et al. 2014. Raises ValueError on another p or seed.
    """
    check_tensors(x)
    check_dropout(p, seed)
    if p == 0:
        return x
    return Tensor.from_op(kernels.dropout(x.data, p, seed), (x,), lambda dy, needs: (kernels.dropout(dy, p, seed),))


def check_dropout(p: float, seed: int) -> None:
    """Raise ValueError unless they can be a dropout's."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout's p must be from 0 up to, not including, 1: {p}")
    if not isinstance(seed, Integral) or not 0 <= seed < 2**64:
        raise ValueError(f"dropout's seed must be a whole number from 0 to 2^64 - 1: {seed}")
