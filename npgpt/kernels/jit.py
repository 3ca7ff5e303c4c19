"""The options given to Numba, all of them.

- Fast-math allows what a vectorised sum needs (reassociation, fused multiply-add, no care for the sign of zero,
  division by multiplying). It expects NaN and infinity: a mask is -inf, and a NaN loss must show.
- Loops over elements start at 0, over a slice if need be. Where LLVM can't prove that an index isn't negative, it lets
  it count from the end, as Python does, and loads the elements one by one and not as vectors.
- Division by zero gives infinity, as in NumPy, not an exception.
- Compiled code is cached beside the source, or in the user's cache folder (cache.py).
- A thread that waits for others does so in a loop for some 10 microseconds, and then sleeps. GNU's OpenMP loops for
  milliseconds by default. If another program computes at the same time, the loop uses up the thread's share of the
  processor, and the thread must pause when it has work. A step of a small model took up to 45 times as long.
- Numba's workqueue ends the process if two Python threads launch kernels at once. It is what `pip install` gives on a
  Mac, where OpenMP is missing. So with it a kernel waits until the others are done.
"""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps

import numba
import numpy as np

from npgpt.kernels.cache import cached

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
INLINED = {"error_model": "numpy", "forceinline": True}  # a call inside a loop would keep it from being vectorised
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "3000"  # OpenMP reads it when Numba starts the first threads
_ONE_AT_A_TIME = threading.RLock()
MIN_PARALLEL_SIZE = 1 << 15  # elements in all arrays of a call: some 20 microseconds of work


def jit(function: Callable) -> Callable:
    """Compile a serial function, or one that is called inside a parallel loop."""
    return cached(numba.njit(fastmath=FASTMATH, error_model="numpy", nogil=True)(function))


def exact_jit(function: Callable) -> Callable:
    """Compile without reassociation, for arithmetic whose order matters (a constant split in two, say). Inlined."""
    return cached(numba.njit(fastmath={"contract"}, nogil=True, **INLINED)(function))


def parallel_jit(function: Callable) -> Callable:
    """Compile a function whose ``prange`` loops run over what is written: the result doesn't depend on the threads.

    Small calls run on one thread: waking the others costs more. ``work`` is the number of array elements by default.
    """
    kernel = cached(numba.njit(parallel=True, fastmath=FASTMATH, error_model="numpy", nogil=True)(function))

    @wraps(function)
    def launch(*arguments, work=None):
        if work is None:
            work = sum(x.size for x in arguments if isinstance(x, np.ndarray))
        with _launch_lock():
            if work >= MIN_PARALLEL_SIZE:
                return kernel(*arguments)
            threads = numba.get_num_threads()
            try:
                numba.set_num_threads(1)
                return kernel(*arguments)
            finally:
                numba.set_num_threads(threads)

    launch.dispatcher = kernel
    return launch


@cache
def _launch_lock() -> AbstractContextManager:
    """What a launch holds: a lock, if Numba lets only one Python thread launch kernels at a time; else nothing."""
    numba.get_num_threads()  # chooses the threading layer, if that has not happened yet
    return _ONE_AT_A_TIME if numba.threading_layer() == "workqueue" else nullcontext()
