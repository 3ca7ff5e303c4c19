from npgpt import kernels
from npgpt.tensor import Tensor, check_tensors


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU ("gelu_new"), an approximation of the exact one by a hyperbolic tangent.

    x (...) -> (...)

    Forward     u = sqrt(2 / pi) (x + 0.044715 x^3)         s = (1 + tanh u) / 2            y = x s
    Backward    ∂u/∂x = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
                dx = dy (s + x 2 s (1 - s) ∂u/∂x)

    since ∂s/∂u = 2 s (1 - s), which kernels/gelu.py derives. Source: Hendrycks & Gimpel 2016, section 2.
    """
    check_tensors(x)
    x_data = x.data
    y = kernels.gelu_tanh_forward(x_data)
    return Tensor.from_op(y, (x,), lambda dy, needs: (kernels.gelu_tanh_backward(dy, x_data),))


def gelu(x: Tensor) -> Tensor:
    """The exact GELU.

    x (...) -> (...)

    Forward     Phi(x) = (1 + erf(x / sqrt 2)) / 2              y = x Phi(x)
    Backward    phi(x) = exp(-x^2 / 2) / sqrt(2 pi)             dx = dy (Phi(x) + x phi(x))

    Phi is the normal distribution, and phi its density: ∂Phi/∂x = phi. Source: Hendrycks & Gimpel 2016, section 2.
    """
    check_tensors(x)
    x_data = x.data
    return Tensor.from_op(kernels.gelu_forward(x_data), (x,), lambda dy, needs: (kernels.gelu_backward(dy, x_data),))
