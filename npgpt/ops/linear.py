import math

from npgpt import kernels
from npgpt.tensor import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W + b for every row of x.

    x (..., I), weight (I, O), bias (O,) or None -> (..., O)

    Forward     y_o = sum_i x_i W_io + b_o
    Backward    dx = dy W^T             each x_i went into every y_o with weight W_io
                dW = x^T dy             summed over all rows: W was used for each of them
                db = sum over rows of dy

    Raises ValueError if the shapes don't fit.
    """
    I, O = weight.shape
    if x.shape[-1:] != (I,) or (bias is not None and bias.shape != (O,)):
        raise ValueError(f"linear: x {x.shape}, weight {weight.shape}, bias {None if bias is None else bias.shape}")
    shape = x.shape
    N = math.prod(shape[:-1])  # NumPy's -1 can't be worked out where I or O is 0
    rows, W = x.data.reshape(N, I), weight.data
    kept_rows = rows if weight.requires_grad else None  # x is kept for dW alone

    def backward(dy, needs):
        dy = dy.reshape(N, O)
        dx = kernels.matmul(dy, W.T).reshape(shape) if needs[0] else None
        dW = kernels.matmul(kept_rows.T, dy) if needs[1] else None
        db = kernels.sum_rows(dy) if needs[2] else None
        return dx, dW, db

    y = kernels.matmul(rows, W, None if bias is None else bias.data)
    return Tensor.from_op(y.reshape(*shape[:-1], O), (x, weight, bias), backward)
