from npgpt import kernels
from npgpt.tensor import Tensor


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU, by a hyperbolic tangent ("gelu_new").

    x (...) -> (...)

    Forward     u = sqrt(2 / pi) (x + 0.044715 x^3)         y = x (1 + tanh u) / 2
    Backward    with s = (1 + tanh u) / 2:                  dx = dy (s + x s (1 - s) 2 du/dx)
                                                            du/dx = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)

    since ds/du = (1 - tanh^2 u) / 2 = 2 s (1 - s). Source: Hendrycks & Gimpel 2016, section 2.
    """
    x_data = x.data
    y = kernels.gelu_tanh_forward(x_data)
    return Tensor.from_op(y, (x,), lambda dy, needs: (kernels.gelu_tanh_backward(dy, x_data),))


def gelu(x: Tensor) -> Tensor:
    """The exact GELU.

    x (...) -> (...)

    Forward     y = x Phi(x)                        Phi(x) = (1 + erf(x / sqrt 2)) / 2, the normal distribution
    Backward    dx = dy (Phi(x) + x phi(x))         phi(x) = exp(-x^2 / 2) / sqrt(2 pi), its derivative

    Source: Hendrycks & Gimpel 2016, section 2.
    """
    x_data = x.data
    return Tensor.from_op(kernels.gelu_forward(x_data), (x,), lambda dy, needs: (kernels.gelu_backward(dy, x_data),))
