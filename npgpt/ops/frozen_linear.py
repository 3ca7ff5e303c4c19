import math

from npgpt import kernels
from npgpt.kernels.few_bits import FewBits
from npgpt.tensor import Tensor


def frozen_linear(x: Tensor, matrix: FewBits, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """``linear`` with a weight that is kept in few bits and gets no gradient.

    x (..., I), matrix (I, O), bias (O,) or None -> (..., O)

    Forward     y = x W + b
    Backward    dx = dy W^T
                db = sum over rows of dy

    x is not kept, since it was for dW alone. ``transposed``: the matrix is (O, I), as a vocabulary head's, and its
    transpose is W. Raises ValueError if the shapes don't fit.
    """
    I, O = matrix.shape[::-1] if transposed else matrix.shape
    if x.shape[-1:] != (I,) or (bias is not None and bias.shape != (O,)):
        raise ValueError(f"frozen_linear: x {x.shape}, W {matrix.shape}, bias {None if bias is None else bias.shape}")
    shape = x.shape
    N = math.prod(shape[:-1])

    def backward(dy, needs):
        dy = dy.reshape(N, O)
        dx = kernels.few_bits_matmul(dy, matrix, not transposed).reshape(shape) if needs[0] else None
        db = kernels.sum_rows(dy) if needs[1] else None
        return dx, db

    y = kernels.few_bits_matmul(x.data.reshape(N, I), matrix, transposed, None if bias is None else bias.data)
    return Tensor.from_op(y.reshape(*shape[:-1], O), (x, bias), backward)
