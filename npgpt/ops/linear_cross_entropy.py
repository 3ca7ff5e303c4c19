import numpy as np

from npgpt import kernels
from npgpt.ops.cross_entropy import check_targets, mean_loss
from npgpt.tensor import Tensor, is_grad_enabled

ROWS = 384  # at a time: enough for the products to be fast, few enough for their logits to be small


def linear_cross_entropy(x: Tensor, weight: Tensor, targets, ignore_index: int = -100) -> Tensor:
    """The vocabulary head and the loss in one: cross_entropy(x W^T, targets), without an array of (N, V).

    x (..., C), weight (V, C), targets (...) of whole numbers from 0 to V - 1, or ignore_index -> ()

    Forward     logits = x W^T                                          (N, V), the largest array of a training step
                loss = -1/n sum_i log softmax(logits_i)[t_i]            over the n targets that count
    Backward    dlogits = dloss / n (softmax(logits) - onehot(targets))
                dx = dlogits W,     dW = dlogits^T x

    No array of (N, V) is ever whole. dlogits is known up to the factor dloss as soon as the logits are: it is written
    over them, goes into dx and dW, and makes room for the next rows. The factor is put on afterwards. Errors are those
    of ``cross_entropy``.
    """
    V, C = weight.shape
    if x.shape[-1:] != (C,):
        raise ValueError(f"linear_cross_entropy: x {x.shape}, weight {weight.shape}")
    targets, count = check_targets(targets, x.shape[:-1], V, ignore_index)
    N, shape = len(targets), x.shape
    rows, W = x.data.reshape(N, C), weight.data
    losses, weights = np.empty(N, rows.dtype), np.full(N, 1 / max(count, 1), rows.dtype)
    wanted = is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    dx, dW = np.empty_like(rows) if wanted else None, None
    for begin in range(0, N, ROWS):
        some = slice(begin, begin + ROWS)
        logits = kernels.matmul(rows[some], W.T)
        losses[some], *statistics = kernels.cross_entropy_forward(logits, targets[some], ignore_index)
        if wanted:
            dlogits = kernels.cross_entropy_backward(
                weights[some], logits, targets[some], *statistics, ignore_index, out=logits
            )
            dx[some] = kernels.matmul(dlogits, W)
            dW = kernels.matmul(dlogits.T, rows[some], add_to=dW)
            del dlogits
        del logits  # before the next ones are made
    if wanted and dW is None:
        dW = np.zeros_like(W)

    def backward(dloss):
        if dloss != 1:
            kernels.scale([dx, dW], dloss.item())
        return dx.reshape(shape), dW

    return Tensor.from_op(mean_loss(losses, count), (x, weight), backward)
