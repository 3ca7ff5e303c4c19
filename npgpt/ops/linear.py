import math

from npgpt import kernels
from npgpt.tensor import Tensor, check_tensors


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W + b for every row of x.

    x (..., I), weight (I, O), bias (O,) or None -> (..., O); below, n counts the rows of x and y

    Forward     y_no = sum_i x_ni W_io + b_o
    Backward    dx_ni = sum_o dy_no W_io        dx = dy W^T
                dW_io = sum_n dy_no x_ni        dW = x^T dy
                db_o  = sum_n dy_no             db = sum over rows of dy

    Derivation. x_ni is used in row n of y, once for each o, with ∂y_no/∂x_ni = W_io: the chain rule adds up over o.
    W_io is used in column o of y, once for each n, with ∂y_no/∂W_io = x_ni: the chain rule adds up over n. b_o is used
    in the same places, with ∂y_no/∂b_o = 1. The sums are matrix products: (W^T)_oi = W_io and (x^T)_in = x_ni.

    Raises ValueError if the shapes don't fit.
    """
    check_tensors(x, weight, bias)
    if weight.ndim != 2:
        raise ValueError(f"linear: weight {weight.shape} is not (I, O)")
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
