import numpy as np

from npgpt.tensor import Tensor, check_tensors


def relu(x: Tensor) -> Tensor:
    """The rectifier.

    x (...) -> (...)

    Forward     y = max(x, 0)
    Backward    dx = 0 where x <= 0, else dy

    The slope is 1 where x > 0, and 0 where x < 0. At 0 there is none, and it is taken to be 0. dx is selected, not
    multiplied: where dy is infinite and x < 0, the product 0 * inf would be NaN.
    """
    check_tensors(x)
    y = np.maximum(x.data, 0)
    flat = x.data <= 0  # false for NaN
    return Tensor.from_op(y, (x,), lambda dy, needs: (np.where(flat, dy.dtype.type(0), dy),))
