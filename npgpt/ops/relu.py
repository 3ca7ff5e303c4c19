import numpy as np

from npgpt.tensor import Tensor


def relu(x: Tensor) -> Tensor:
    """The rectifier.

    x (...) -> (...)

    Forward     y = max(x, 0)
    Backward    dx = 0 where x <= 0, else dy (at 0 itself the slope is taken to be 0)

    Both are choices and not products: infinity in dy where nothing goes back would become 0 * inf = NaN.
    """
    y = np.maximum(x.data, 0)
    flat = x.data <= 0  # false for NaN
    return Tensor.from_op(y, (x,), lambda dy, needs: (np.where(flat, dy.dtype.type(0), dy),))
