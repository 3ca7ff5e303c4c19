"""The operations of a frozen model in few bits: gradients pass through its matrices, and none is computed for them."""

import math

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.kernels.few_bits import FewBits
from npgpt.ops.cross_entropy import check_targets, mean_loss
from npgpt.tensor import Tensor, needs_grad
from npgpt.text.batches import IGNORED

ROWS = 128  # at a time; fewer than with a float32 head, since whoever keeps that in few bits has little memory


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


def frozen_linear_cross_entropy(x: Tensor, matrix: FewBits, targets: ArrayLike) -> Tensor:
    """``linear_cross_entropy`` with a head that is kept in few bits and gets no gradient.

    x (..., C), matrix (V, C), targets (...) of whole numbers from 0 to V - 1, or IGNORED -> ()

    Forward     logits = x W^T                                          (N, V)
                loss = -1/n sum_i log softmax(logits_i)[t_i]            over the n targets that count
    Backward    dlogits = dloss / n (softmax(logits) - onehot(targets))
                dx = dlogits W

    As there, logits exist a chunk of rows at a time, and dx / dloss is computed with them. Errors are those of
    ``cross_entropy``.
    """
    V, C = matrix.shape
    if x.shape[-1:] != (C,):
        raise ValueError(f"frozen_linear_cross_entropy: x {x.shape}, W {matrix.shape}")
    targets, count = check_targets(targets, x.shape[:-1], V, IGNORED)
    N, shape = len(targets), x.shape
    rows = np.ascontiguousarray(x.data).reshape(N, C)
    losses, dlosses = np.empty(N, rows.dtype), np.full(N, 1 / max(count, 1), rows.dtype)  # for dloss = 1
    (needs_dx,) = needs_grad(x)
    dx = np.empty_like(rows) if needs_dx else None
    for begin in range(0, N, ROWS):
        chunk = slice(begin, begin + ROWS)
        logits = kernels.few_bits_matmul(rows[chunk], matrix, True)
        losses[chunk], row_max, row_sum = kernels.cross_entropy_forward(logits, targets[chunk], IGNORED)
        if dx is not None:
            dlogits = kernels.cross_entropy_backward(
                dlosses[chunk], logits, targets[chunk], row_max, row_sum, IGNORED, out=logits
            )
            dx[chunk] = kernels.few_bits_matmul(dlogits, matrix)
            del dlogits
        del logits  # before the next ones are made

    def backward(dloss, needs):
        if dloss != 1:
            kernels.scale([dx], dloss.item())
        return (dx.reshape(shape),)

    return Tensor.from_op(mean_loss(losses, count), (x,), backward)
