import numpy as np
from numpy.typing import DTypeLike

from npgpt.tensor import Tensor, check_tensors


def rotary(qkv: Tensor, n_head: int, first: int = 0) -> Tensor:
    """Rotary positions: turn each pair of elements of a query or key by an angle that grows with its position.

    qkv (B, T, 3C), at positions first, first + 1, ... -> (B, T, 3C), with the values unchanged

    Forward     pair j of a head's D elements is a = x_j, b = x_{j + D/2}; its angle is t = position / 10000^(2j / D)
                r = y_j = a cos t - b sin t             s = y_{j + D/2} = a sin t + b cos t
    Backward    da = dr cos t + ds sin t                db = -dr sin t + ds cos t

    Derivation. a is in both r and s, with ∂r/∂a = cos t and ∂s/∂a = sin t; b too, with ∂r/∂b = -sin t and
    ∂s/∂b = cos t. The backward pass is the forward pass with the angle -t: it turns the gradient back.

    A product q k^T stays the same if both are turned by the same angle. So if q is turned by t and k by u, it is the
    product of q itself and k turned by u - t. It depends on the contents of both and on the difference of their
    positions, and not on where the two are.

    Source: Su et al. 2021, section 3.2.2; the pairing of halves is GPT-NeoX's. Raises ValueError on shapes that don't
    fit.
    """
    check_tensors(qkv)
    if qkv.ndim != 3 or n_head < 1 or qkv.shape[2] % (6 * n_head):
        raise ValueError(f"rotary: qkv {qkv.shape} is not (B, T, 3C) with an even C / {n_head} heads")
    B, T, C3 = qkv.shape
    D = C3 // 3 // n_head
    cos, sin = (x[:, None, None] for x in rotary_angles(np.arange(first, first + T), D, qkv.dtype))

    def turn(x, sin):
        y = x.copy()
        before, after = (z.reshape(B, T, 3, n_head, D)[:, :, :2] for z in (x, y))
        a, b = before[..., : D // 2], before[..., D // 2 :]
        after[..., : D // 2] = a * cos - b * sin
        after[..., D // 2 :] = a * sin + b * cos
        return y

    return Tensor.from_op(turn(qkv.data, sin), (qkv,), lambda dy, needs: (turn(dy, -sin),))


def rotary_angles(positions: np.ndarray, D: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the angles at positions (T,), each (T, D / 2), the same for queries, keys and all heads."""
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, D, 2) / D)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
