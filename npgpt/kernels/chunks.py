"""Long arrays are cut into chunks, which threads take one after the other."""

from collections.abc import Callable

import numpy as np

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.memory import empty

CHUNK_SIZE = 4096  # elements; 16 KB of each array: they stay in the first-level cache from one use to the next


@jit
def n_chunks(n):
    """The number of chunks in n elements; the last may be shorter."""
    return (n + CHUNK_SIZE - 1) // CHUNK_SIZE


@jit
def chunk_view(x, chunk):
    """This chunk of x (N,), a view."""
    return x[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]


def elementwise(kernel: Callable, *arrays: np.ndarray) -> np.ndarray:
    """Run kernel(*arrays, y) on flat, contiguous arrays of one shape -> y, of their shape."""
    arrays = tuple(np.asarray(x, order="C") for x in arrays)
    y = empty(arrays[0].shape, arrays[0].dtype)
    kernel(*(x.reshape(-1) for x in (*arrays, y)))
    return y
