"""Many arrays in one launch: compiled code is given their addresses, and makes arrays of them again.

A compiled function takes arrays of one shape, or one number of them; a model has hundreds, of all shapes. As a table of
addresses they are one array of whole numbers.
"""

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from npgpt.kernels.jit import jit

CHUNK = 1 << 14  # numbers that a thread takes at a time: a row of the table for each, so not too few


def table_of(lists: list[list[np.ndarray]]):
    """Lists of contiguous arrays, of the same sizes in each list -> what compiled code needs to walk through them.

    addresses (chunks, lists)   where this chunk of this list begins, an int64
    sizes (chunks,)             how many numbers it has
    owners (chunks,)            which array it is of

    Raises ValueError on an array that isn't contiguous, since what is written to a copy would be lost, or that differs
    in size or dtype from what it must be like: compiled code doesn't look.
    """
    for arrays in lists:
        for array, like in zip(arrays, lists[0], strict=True):
            if not array.flags.c_contiguous or array.size != like.size or array.dtype != lists[0][0].dtype:
                raise ValueError(
                    f"{array.dtype} {array.shape} with strides {array.strides} beside {like.dtype} {like.shape}"
                )
    sizes = np.array([x.size for x in lists[0]], np.int64)
    counts = (sizes + CHUNK - 1) // CHUNK
    owners = np.repeat(np.arange(len(sizes)), counts)
    begins = (np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)) * CHUNK
    starts = np.array([[x.ctypes.data for x in arrays] for arrays in lists], np.int64).T
    itemsize = lists[0][0].itemsize if lists[0] else 0
    addresses = starts.reshape(len(sizes), len(lists))[owners] + begins[:, None] * itemsize
    return addresses, np.minimum(CHUNK, sizes[owners] - begins), owners


@intrinsic
def _pointer(context, address, like):
    """The address as a pointer to numbers of like's type."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), codegen


@jit
def array_at(address, size, like):
    """The ``size`` numbers of like's type that begin at the address, an array (size,)."""
    return carray(_pointer(address, like), (size,))
