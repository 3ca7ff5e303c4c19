import numpy as np
from numpy.typing import DTypeLike

from npgpt.tensor import Tensor


def rotary(qkv: Tensor, n_head: int, first: int = 0) -> Tensor:
    """Rotary positions: turn each pair of elements of a query or key by an angle that grows with its position.

    qkv (B, T, 3C), the positions being first, first + 1, ... -> (B, T, 3C), the values untouched

    Forward     pair j of a head is (a, b) = (x_j, x_{j + D/2}); its angle is theta = position / 10000^(2j / D)
                a' = a cos theta - b sin theta          b' = a sin theta + b cos theta
    Backward    the same with -theta: a rotation's transpose is the rotation back

    The product of a query and a key then depends on the distance of their positions alone.
    Source: Su et al. 2021, section 3.2.2; the pairing of halves is GPT-NeoX's.
    """
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

    return Tensor.from_op(turn(qkv.data, sin), (qkv,), lambda dy, needs: (turn(np.ascontiguousarray(dy), -sin),))


def rotary_angles(positions: np.ndarray, D: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the angles at positions (T,), (T, D / 2) each: the same for queries, keys and all heads."""
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, D, 2) / D)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
