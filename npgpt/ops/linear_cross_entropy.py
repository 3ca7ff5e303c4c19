import numpy as np

from npgpt import kernels
from npgpt.ops.cross_entropy import check_targets, mean_loss
from npgpt.tensor import Tensor, is_grad_enabled


def linear_cross_entropy(x: Tensor, weight: Tensor, targets, ignore_index: int = -100) -> Tensor:
    """The vocabulary head and the loss in one: cross_entropy(x W^T, targets), holding one array of (N, V) and not two.

    x (..., C), weight (V, C), targets (...) of whole numbers from 0 to V - 1, or ignore_index -> ()

    Forward     logits = x W^T                                          (N, V), the largest array of a training step
                loss = -1/n sum_i log softmax(logits_i)[t_i]            over the n targets that count
    Backward    dlogits = dloss / n (softmax(logits) - onehot(targets))
                dx = dlogits W,     dW = dlogits^T x

    dlogits is known up to the factor dloss as soon as the logits are, so it is written over them at once, and the
    factor is put on afterwards: on dx, and on x for dW (both are V / C times smaller). Errors are those of
    ``cross_entropy``.
    """
    V, C = weight.shape
    if x.shape[-1:] != (C,):
        raise ValueError(f"linear_cross_entropy: x {x.shape}, weight {weight.shape}")
    targets, count = check_targets(targets, x.shape[:-1], V, ignore_index)
    rows, W, shape = x.data.reshape(len(targets), C), weight.data, x.shape
    logits = kernels.matmul(rows, W.T)
    losses, mz = kernels.cross_entropy_forward(logits, targets, ignore_index)
    loss = mean_loss(losses, count)
    if not (is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return Tensor(loss)
    weights = np.full(len(targets), 1 / max(count, 1), rows.dtype)
    dlogits = kernels.cross_entropy_backward(weights, logits, targets, mz, ignore_index, out=logits)

    def backward(dloss):
        dx = kernels.matmul(dlogits, W)
        dx *= dloss
        return dx.reshape(shape), kernels.matmul(dlogits.T, rows * dloss)

    return Tensor.from_op(loss, (x, weight), backward)
