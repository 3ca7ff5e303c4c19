"""Many arrays in one launch: compiled code gets a table of their addresses and turns them back into arrays.

A compiled function takes a fixed number of arrays; a model has hundreds. A table of addresses is one array.
"""

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from npgpt.kernels.jit import jit

CHUNK_SIZE = 1 << 14  # elements that a thread takes at a time: each chunk costs a row of the table, so not too few


def pointer_table(lists: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists of contiguous arrays, of the same sizes in each list -> a row for each chunk of them.

    addresses (chunks, lists)   where this chunk of this list begins, int64
    sizes (chunks,)             the number of its elements
    owners (chunks,)            the index of the array that it belongs to

    >>> addresses, sizes, owners = pointer_table([[np.zeros((2, 3)), np.zeros(20_000)]])
    >>> sizes.tolist(), owners.tolist()
    ([6, 16384, 3616], [0, 1, 1])

    Raises ValueError on an array that isn't contiguous (writing to a copy would be lost), that differs in size from its
    counterpart in the first list, or in dtype from the first array of all: compiled code checks no bounds.
    """
    for arrays in lists:
        for array, first in zip(arrays, lists[0], strict=True):
            if not array.flags.c_contiguous or array.size != first.size or array.dtype != lists[0][0].dtype:
                found = f"{array.dtype} {array.shape} with strides {array.strides}"
                raise ValueError(f"{found} beside {lists[0][0].dtype} {first.shape}")
    sizes = np.array([x.size for x in lists[0]], np.int64)
    counts = (sizes + CHUNK_SIZE - 1) // CHUNK_SIZE
    owners = np.repeat(np.arange(len(sizes)), counts)
    begins = (np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)) * CHUNK_SIZE
    starts = np.array([[x.ctypes.data for x in arrays] for arrays in lists], np.int64).T
    itemsize = lists[0][0].itemsize if lists[0] else 0
    addresses = starts.reshape(len(sizes), len(lists))[owners] + begins[:, None] * itemsize
    return addresses, np.minimum(CHUNK_SIZE, sizes[owners] - begins), owners


@intrinsic
def _pointer(context, address, dtype_tag):
    """The address as a pointer to elements of dtype_tag's type."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype_tag)(address, dtype_tag), codegen


@jit
def array_at(address, size, dtype_tag):
    """The ``size`` elements of dtype_tag's type that begin at the address, as an array (size,)."""
    return carray(_pointer(address, dtype_tag), (size,))
