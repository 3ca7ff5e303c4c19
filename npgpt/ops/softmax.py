from npgpt import kernels
from npgpt.tensor import Tensor


def softmax(x: Tensor) -> Tensor:
    """Turn the last axis into probabilities.

    x (..., N) -> (..., N)

    Forward     y_j = exp(x_j) / sum_k exp(x_k)
    Backward    dx = y * (dy - sum_j dy_j y_j)

    since dy_j/dx_k = y_j (1[j = k] - y_k); the derivation is in the kernel's file.
    """
    y = kernels.softmax_forward(x.data)
    return Tensor.from_op(y, (x,), lambda dy, needs: (kernels.softmax_backward(dy, y),))
