import numpy as np

from npgpt.tensor import Tensor


def relu(x: Tensor) -> Tensor:
    """The rectifier.

    x (...) -> (...)

    Forward     y = max(x, 0)
    Backward    dx = dy where x > 0, else 0 (at 0 itself the slope is taken to be 0)
    """
    y = np.maximum(x.data, 0)
    positive = x.data > 0
    return Tensor.from_op(y, (x,), lambda dy: (dy * positive,))
