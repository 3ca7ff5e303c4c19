import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.ops.cross_entropy import check_targets, mean_loss
from npgpt.tensor import Tensor, check_tensors, needs_grad

ROWS = 384  # at a time: enough for fast products, few enough for their logits to be small


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
    """The vocabulary head and the loss in one: cross_entropy(x W^T, targets). Its forward pass computes the gradients.

    x (..., C), weight (V, C), targets (...) of whole numbers from 0 to V - 1, or ignore_index -> ()

    Forward     logits = x W^T                                          (N, V), the largest array of a training step
                loss = -(1/n) sum_i log softmax(logits_i)[t_i]          over the n targets that count
    Backward    dlogits = (dloss / n) (softmax(logits) - onehot(targets))           in the rows that count, else 0
                dx = dlogits W,     dW = dlogits^T x

    Derivation. dlogits is that of ``cross_entropy``. dx and dW are those of ``linear`` with the weight W^T.

    The logits never exist all at once. They are made for ROWS rows at a time, and overwritten by dlogits for dloss = 1,
    from which the rows' dx and their part of dW are computed. The backward pass multiplies both by dloss. Errors are
    those of ``cross_entropy``.
    """
    check_tensors(x, weight)
    if weight.ndim != 2:
        raise ValueError(f"linear_cross_entropy: weight {weight.shape} is not (V, C)")
    V, C = weight.shape
    if x.shape[-1:] != (C,):
        raise ValueError(f"linear_cross_entropy: x {x.shape}, weight {weight.shape}")
    targets, count = check_targets(targets, x.shape[:-1], V, ignore_index)
    N, shape = len(targets), x.shape
    rows, W = x.data.reshape(N, C), weight.data
    losses, dlosses = np.empty(N, rows.dtype), np.full(N, 1 / max(count, 1), rows.dtype)  # for dloss = 1
    needs_dx, needs_dW = needs_grad(x, weight)
    dx = np.empty_like(rows) if needs_dx else None
    dW = np.zeros_like(W) if needs_dW and not N else None  # else the first chunk's product makes it
    for begin in range(0, N, ROWS):
        chunk = slice(begin, begin + ROWS)
        logits = kernels.matmul(rows[chunk], W.T)
        losses[chunk], row_max, row_sum = kernels.cross_entropy_forward(logits, targets[chunk], ignore_index)
        if needs_dx or needs_dW:
            dlogits = kernels.cross_entropy_backward(
                dlosses[chunk], logits, targets[chunk], row_max, row_sum, ignore_index, out=logits
            )
            if dx is not None:
                dx[chunk] = kernels.matmul(dlogits, W)
            if needs_dW:
                dW = kernels.matmul(dlogits.T, rows[chunk], add_to=dW)
            del dlogits
        del logits  # before the next ones are made

    def backward(dloss, needs):
        if dloss != 1:
            kernels.scale([gradient for gradient in (dx, dW) if gradient is not None], dloss.item())
        return dx.reshape(shape) if needs[0] else None, dW

    return Tensor.from_op(mean_loss(losses, count), (x, weight), backward)
