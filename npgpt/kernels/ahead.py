"""Compile kernels before they are needed, on several cores: ``compile_ahead`` starts processes that fill the cache.

All processes read from one pipe: each byte is the number of a kernel, and the process that reads it compiles it. What
they leave out is compiled when it is first called.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from time import perf_counter, sleep

import numba
import numpy as np

from npgpt.kernels import progress
from npgpt.kernels.precision import gemm_dtype_tag
from npgpt.kernels.signatures import signatures

LONGEST = ("attention_backward", "decode_step")  # half of what training and sampling compile, in seconds
MAX_PROCESSES = 4  # of half a gigabyte each
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # where this very package is
_CHILD = "import sys; sys.path[:] = {paths!r}; from npgpt.kernels.ahead import work; work(*sys.argv[1:])"


def compile_ahead(names: Collection[str], stop: Callable[[], bool] = lambda: False) -> None:
    """Compile the float32 versions of kernels, by their names in signatures.py, that are not in the cache.

    Uses as many processes as Numba has threads, at most four. Returns early once ``stop()`` is true.
    """
    dtypes = np.dtype(np.float32), gemm_dtype_tag(np.dtype(np.float32)).dtype
    table = signatures(*dtypes)
    missing = _missing({name: table[name] for name in table if name in names})
    if not missing:
        return
    if any(dispatcher._cache.cache_path is None for dispatcher, _ in missing.values()):
        progress.announce(is_kept=False)
        return
    # What takes longest first, or it would be waited for. The others in the table's order: products, which attention
    # calls, too, come long before attention, so that one process finds in the cache what another has compiled.
    order = sorted(missing, key=lambda name: not name.startswith(LONGEST))
    total, began = len(missing), perf_counter()
    shown = progress.Progress(total)
    processes = []
    numbers, write_end = os.pipe()
    os.write(write_end, bytes(range(total)))
    os.close(write_end)
    try:
        with suppress(OSError):  # no memory for another process
            for _ in range(min(numba.get_num_threads(), MAX_PROCESSES, total)):
                processes.append(_start(numbers, *dtypes, *order))
        while missing and any(process.poll() is None for process in processes) and not stop():
            sleep(0.1)
            missing = _missing(missing)
            shown.show(total - len(missing))
    finally:
        os.close(numbers)
        for process in processes:
            process.kill()
            process.wait()
        shown.show(total - len(missing), end="\n")
        progress.seconds += perf_counter() - began


def _missing(kernels):
    return {name: kernel for name, kernel in kernels.items() if not kernel[0]._cache.holds(kernel[1])}


def _start(numbers, *arguments):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD.format(paths=[_ROOT, *filter(None, sys.path)]), *map(str, arguments)],
        stdin=numbers,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent alone
    )


def work(dtype: str, gemm_dtype: str, *names: str) -> None:
    """Compile kernels of ``names``, by the numbers that are read from standard input."""
    table = signatures(np.dtype(dtype), np.dtype(gemm_dtype))
    while number := os.read(sys.stdin.fileno(), 1):
        dispatcher, types = table[names[number[0]]]
        if not dispatcher._cache.holds(types):
            dispatcher.compile(types)
