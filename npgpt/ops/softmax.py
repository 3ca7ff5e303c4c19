from npgpt import kernels
from npgpt.tensor import Tensor, check_tensors


def softmax(x: Tensor) -> Tensor:
    """Turn the last axis into probabilities.

    x (..., N) -> (..., N)

    Forward     y_j = exp(x_j) / sum_k exp(x_k)
    Backward    dx_k = y_k (dy_k - sum_j dy_j y_j)

    since ∂y_j/∂x_k = y_k (1[j = k] - y_j), which kernels/softmax.py derives. Raises ValueError on a scalar.
    """
    check_tensors(x)
    if not x.ndim:
        raise ValueError("softmax takes at least one axis, not a scalar")
    y = kernels.softmax_forward(x.data)
    return Tensor.from_op(y, (x,), lambda dy, needs: (kernels.softmax_backward(dy, y),))
