import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.ops.embedding import check_ids
from npgpt.tensor import Tensor, check_tensors


def cross_entropy(logits: Tensor, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
    """The mean of -log softmax(logits)[target], in nats.

    logits (..., V), targets (...) of whole numbers from 0 to V - 1, or ignore_index where there is nothing to predict
    -> ()

    Forward     loss = (1/n) sum_i (log sum_j exp(x_ij) - x_i[t_i])         over the n targets that count
    Backward    dx_ij = (dloss / n) (softmax(x_i)_j - 1[j = t_i])           0 where the target doesn't count

    The gradient is the probability that was predicted, less the one that was right: 1 at the target, 0 elsewhere.
    kernels/cross_entropy.py derives it. If no target counts, the loss is NaN (0 / 0), as in PyTorch.

    Raises IndexError on a target outside the vocabulary, ValueError on shapes that don't fit, TypeError if targets are
    not whole numbers.
    """
    check_tensors(logits)
    if not logits.ndim:
        raise ValueError("cross_entropy: logits (..., V) have at least one axis, and this is a scalar")
    V = logits.shape[-1]
    targets, count = check_targets(targets, logits.shape[:-1], V, ignore_index)
    x = logits.data.reshape(len(targets), V)
    losses, row_max, row_sum = kernels.cross_entropy_forward(x, targets, ignore_index)
    shape = logits.shape

    def backward(dloss, needs):
        dlosses = np.full(len(targets), dloss / max(count, 1), x.dtype)
        dx = kernels.cross_entropy_backward(dlosses, x, targets, row_max, row_sum, ignore_index)
        return (dx.reshape(shape),)

    return Tensor.from_op(mean_loss(losses, count), (logits,), backward)


def mean_loss(losses: np.ndarray, count: int) -> np.ndarray:
    """The sum of the losses, divided by how many count; NaN if none does. Added in float64, since there may be many."""
    total = losses.sum(dtype=np.float64)
    return np.asarray(total / count if count else np.nan, losses.dtype)


def check_targets(targets: ArrayLike, shape: tuple[int, ...], V: int, ignore_index: int) -> tuple[np.ndarray, int]:
    """-> targets as one row (N,) of int64, and how many of them count."""
    targets = np.asarray(targets)
    if targets.shape != shape:
        raise ValueError(f"targets have shape {targets.shape}, and the positions to predict {shape}")
    counted = targets != ignore_index
    check_ids(targets[counted], V)
    return targets.reshape(-1).astype(np.int64), int(counted.sum())
