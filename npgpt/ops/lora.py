import math

import numpy as np

from npgpt import kernels
from npgpt.tensor import Tensor


def lora(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float, p: float = 0.0, seed: int = 0) -> Tensor:
    """Add to a layer's result y, of input x, what a product of two thin matrices makes of x (LoRA).

    y (..., O), x (..., I), A (I, r), B (r, O), 0 <= p < 1, seed as for ``dropout`` -> (..., O)

    Forward     d = dropout(x)                  u = d A                 z = y + s u B       s is ``scale``
    Backward    dy = dz                         y is only added to
                dB = s u^T dz                   as in a linear layer with input u and weight B ...
                du = s dz B^T
                dA = d^T du                     ... and in one with input d and weight A
                dx = dropout'(du A^T)           dropout's own backward: the same mask and factor

    The layer y = x W + b itself gets dy, and adds dy W^T to dx. u has r columns, so it is cheap to keep. d is not kept:
    it is made again from x and the seed.

    Source: Hu et al. 2021, section 4.1, for x as a row. Raises ValueError if the shapes don't fit.
    """
    (I, r), O = A.shape, B.shape[1]
    if x.shape[-1:] != (I,) or B.shape[0] != r or y.shape != (*x.shape[:-1], O):
        raise ValueError(f"lora: y {y.shape}, x {x.shape}, A {A.shape}, B {B.shape}")
    shape = x.shape
    N = math.prod(shape[:-1])
    rows, a, b = x.data.reshape(N, I), A.data, B.data
    kept_rows = rows if A.requires_grad else None  # x is kept for dA alone

    def dropped(rows):
        return kernels.dropout(rows, p, seed) if p else rows

    u = kernels.matmul(dropped(rows), a)
    z = kernels.matmul(u, b * b.dtype.type(scale), add_to=np.array(y.data, order="C").reshape(N, O))

    def backward(dz, needs):
        dz_rows = dz.reshape(N, O)
        du = kernels.matmul(dz_rows, b.T * b.dtype.type(scale)) if needs[1] or needs[2] else None
        dx = dropped(kernels.matmul(du, a.T)).reshape(shape) if needs[1] else None
        dA = kernels.matmul(dropped(kept_rows).T, du) if needs[2] else None
        dB = kernels.matmul(np.ascontiguousarray(u.T) * u.dtype.type(scale), dz_rows) if needs[3] else None
        return dz if needs[0] else None, dx, dA, dB

    return Tensor.from_op(z.reshape(y.shape), (y, x, A, B), backward)
