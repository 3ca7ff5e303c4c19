"""Memory of arrays: where it begins, and whether the C library returns it to the operating system when it is freed."""

import ctypes
import math

import numpy as np

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # their numbers in glibc's malloc.h
LINE = 64  # bytes of a cache line, and of the widest register


def empty(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """As np.empty, but the array begins at a multiple of 64.

    NumPy's large arrays begin 16 bytes behind one. Then each register full of elements lies in two cache lines, which
    makes products of matrices 5 to 10 % slower.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + LINE - 1, np.uint8)
    return np.ndarray(shape, dtype, memory, offset=-memory.ctypes.data % LINE)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: the next step allocates the same amount.

    Memory that was returned to the operating system comes back page by page, each filled with zeros, which takes a
    tenth of a training step. Only glibc has this setting; with another C library nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return
    mallopt(_MMAP_MAX, 0)  # large arrays come from the heap, too
    mallopt(_TRIM_THRESHOLD, -1)  # whose end is never returned
    mallopt(_TOP_PAD, 64 << 20)
