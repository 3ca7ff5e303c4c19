"""Freed memory: whether the C library returns it to the operating system."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # their numbers in glibc's malloc.h


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
