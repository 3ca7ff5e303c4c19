"""What fused operations make inside and don't keep: attention's weights, the logits. Made again, and compared.

Their kernels keep only what the backward pass needs. What the page shows of their inside is computed here in plain
NumPy from what the trace recorded, and must lead to what the kernel gave, forward and backward: else it is an error.
"""

import numpy as np

from npgpt import kernels
from npgpt.ops.attention import split_heads
from npgpt.teaching.trace import Operation

APART = 1e-5  # at most, of the largest terms: kernels add in another order


def attention_heads(operation: Operation, n_head: int, scale: float) -> dict[str, np.ndarray]:
    """q, k, v (H, T, D), the scores S, the weights P, and dS (H, T, T) of one causal_self_attention of one sentence.

    S is -inf where a key is later. dS is there if there was a backward pass. Raises ArithmeticError if P v or the
    gradients of q, k and v are not those of the kernel.
    """
    q, k, v = _heads(_data(operation, 0), n_head)
    S = np.where(np.tri(q.shape[1], dtype=bool), q.dtype.type(scale) * (q @ k.swapaxes(1, 2)), -np.inf).astype(q.dtype)
    P = np.exp(S - S.max(axis=-1, keepdims=True))
    P /= P.sum(axis=-1, keepdims=True)
    T, _ = operation.result.data.shape[1:]
    _compare(operation, P @ v, operation.result.data.reshape(T, n_head, -1).transpose(1, 0, 2))
    found = {"q": q, "k": k, "v": v, "S": S, "P": P}
    if operation.gradients:
        dy = operation.dy.reshape(T, n_head, -1).transpose(1, 0, 2)  # type: ignore[union-attr]
        dP = dy @ v.swapaxes(1, 2)
        dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True))
        made = scale * dS @ k, scale * dS.swapaxes(1, 2) @ q, P.swapaxes(1, 2) @ dy
        for ours, given in zip(made, _heads(operation.gradients[0], n_head), strict=True):
            _compare(operation, ours, given)
        found["dS"] = dS
    return found


def logits_of(operation: Operation) -> np.ndarray:
    """The logits (N, V) inside of a linear_cross_entropy, by the product that it computes them with."""
    x, W = _data(operation, 0), _data(operation, 1)
    return kernels.matmul(x.reshape(-1, x.shape[-1]), W.T)


def inside_of_loss(operation: Operation, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (N, V), and dlogits (N, V), for dloss = 1, of a linear_cross_entropy.

    targets     (N,), those below 0 don't count

    Raises ArithmeticError if dlogits W is not the dx that it gave.
    """
    P, counted = kernels.softmax_forward(logits_of(operation)), targets >= 0
    dlogits = P.copy()
    dlogits[counted, targets[counted]] -= 1
    dlogits *= counted[:, None] / P.dtype.type(counted.sum())
    dx = operation.gradients[0]
    _compare(operation, dlogits @ _data(operation, 1), dx.reshape(len(P), -1))  # type: ignore[union-attr]
    return P, dlogits


def _data(operation, i) -> np.ndarray:
    return operation.inputs[i].data


def _heads(qkv, n_head):
    return [part[0].transpose(1, 0, 2) for part in split_heads(qkv, n_head)]


def _compare(operation, ours, given):
    if np.abs(ours - given).max() > APART * max(1.0, float(np.abs(given).max())):
        raise ArithmeticError(f"{operation.path or 'the loss'}: what is shown of its inside doesn't lead to its result")
