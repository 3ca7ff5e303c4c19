from npgpt import kernels
from npgpt.tensor import Tensor, check_tensors


def layernorm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalise each row to zero mean and unit variance, then scale and shift.

    x (..., C), weight (C,), bias (C,) or None -> (..., C)

    Forward     rstd = 1 / sqrt(variance + eps)     xhat = (x - mean) * rstd        y = xhat * weight + bias
    Backward    dxhat = dy * weight
                dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
                dweight = sum over rows of dy * xhat        dbias = sum over rows of dy

    Mean and variance are those of a row, over C elements. kernels/layernorm.py derives the gradients.

    Source: Ba, Kiros & Hinton 2016, eq. 4. Raises ValueError on shapes that don't fit, TypeError on dtypes.
    """
    check_tensors(x, weight, bias)
    C = x.shape[-1] if x.ndim else 0
    if weight.shape != (C,) or (bias is not None and bias.shape != (C,)):
        raise ValueError(f"layernorm: x {x.shape}, weight {weight.shape}, bias {None if bias is None else bias.shape}")
    if any(parameter is not None and parameter.dtype != x.dtype for parameter in (weight, bias)):
        raise TypeError(f"layernorm: x is {x.dtype}, and weight and bias must be too")
    x_data, weight_data = x.data, weight.data
    y, mean, rstd = kernels.layernorm_forward(x_data, weight_data, None if bias is None else bias.data, eps)

    def backward(dy, needs):
        return kernels.layernorm_backward(dy, x_data, weight_data, mean, rstd)

    return Tensor.from_op(y, (x, weight, bias), backward)
