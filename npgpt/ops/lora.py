import math

import numpy as np

from npgpt import kernels
from npgpt.ops.dropout import check_dropout
from npgpt.tensor import Tensor, check_tensors


def lora(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float, p: float = 0.0, seed: int = 0) -> Tensor:
    """LoRA: y + scale * dropout(x) A B, where y is a layer's result for the input x, and A and B are thin matrices.

    y (..., O), x (..., I), A (I, r), B (r, O), 0 <= p < 1, seed as for ``dropout`` -> (..., O)

    Forward     h = dropout(x)                      u = h A             z = y + s u B       s is ``scale``
    Backward    dy = dz
                dB_ro = s sum_n u_nr dz_no          dB = s u^T dz
                du_nr = s sum_o dz_no B_ro          du = s dz B^T
                dA_ir = sum_n h_ni du_nr            dA = h^T du
                dh_ni = sum_r du_nr A_ir            dx = dropout'(du A^T), by the mask and factor of the forward pass

    Derivation. z_no = y_no + s sum_r u_nr B_ro. So ∂z_no/∂y_no = 1; ∂z_no/∂B_ro = s u_nr, once for each row n; and
    ∂z_no/∂u_nr = s B_ro, once for each column o: the chain rule adds them up, as in ops/linear.py. u = h A is a linear
    layer with input h and weight A, whose dy is du.

    The layer y = x W + b itself gets dy, and adds dy W^T to dx. u has r columns, so it is cheap to keep. h is not kept:
    it is made again from x and the seed.

    Source: Hu et al. 2021, section 4.1, for x as a row. Raises ValueError if the shapes don't fit.
    """
    check_tensors(y, x, A, B)
    if A.ndim != 2 or B.ndim != 2:
        raise ValueError(f"lora: A {A.shape} is not (I, r), or B {B.shape} not (r, O)")
    (I, r), O = A.shape, B.shape[1]
    if x.shape[-1:] != (I,) or B.shape[0] != r or y.shape != (*x.shape[:-1], O):
        raise ValueError(f"lora: y {y.shape}, x {x.shape}, A {A.shape}, B {B.shape}")
    check_dropout(p, seed)
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
