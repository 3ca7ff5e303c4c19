"""What becomes of memory that is given back."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # their numbers in glibc's malloc.h


def keep_freed_memory() -> None:
    """Have the C library keep memory that this process lets go of: the next step takes as much again.

    Memory that goes back to the operating system comes anew a page at a time, each filled with zeros, which takes a
    tenth of a training step. Only glibc has this to set; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return
    mallopt(_MMAP_MAX, 0)  # large arrays come from the heap, too
    mallopt(_TRIM_THRESHOLD, -1)  # whose end is never given back
    mallopt(_TOP_PAD, 64 << 20)
