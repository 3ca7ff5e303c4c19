import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.tensor import Tensor, check_tensors


def embedding(ids: ArrayLike, weight: Tensor) -> Tensor:
    """Look up rows of a table.

    ids (...) of whole numbers from 0 to V - 1, weight (V, C) -> (..., C)

    Forward     y_n = weight[ids_n]
    Backward    dweight[v] = sum of dy_n over all n with ids_n = v, since row v was used in each of these y_n

    This is the product of a one-hot matrix with the table, without building that matrix. If weight already has a
    gradient (from a tied head), the rows are added to it, and no other array of weight's shape is built.

    Raises IndexError on an id outside the table, TypeError if ids are not whole numbers, ValueError if weight is no
    table.
    """
    check_tensors(weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight {weight.shape} is not (V, C)")
    ids = np.array(ids)  # a copy: a batch's array may be filled again before the backward pass
    V, C = weight.shape
    check_ids(ids, V)

    def backward(dy, needs):
        return (lambda dweight: kernels.embedding_backward(dy, ids, dweight),)

    return Tensor.from_op(weight.data[ids].reshape(*ids.shape, C), (weight,), backward)


def check_ids(ids: np.ndarray, V: int) -> None:
    """Token ids must be whole numbers from 0 to V - 1; a negative one would silently count from the end."""
    if ids.dtype.kind not in "iu":
        raise TypeError(f"token ids are whole numbers, not {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= V):
        wrong = ids[(ids < 0) | (ids >= V)].flat[0]
        raise IndexError(f"token id {wrong} is outside the vocabulary of {V}")
