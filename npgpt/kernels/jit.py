"""How Numba compiles our kernels: every option given to it is here.

- Fast-math allows what a vectorised sum needs (reassociation, fused multiply-add, no care for the sign of zero,
  division by multiplying) and never assumes that NaN and infinity don't occur: a mask is -inf, and a NaN loss must
  show.
- Loops over numbers start at 0, over a slice if need be: where LLVM can't see that an index isn't negative, it lets it
  count from the end, as Python does, and fetches each number by itself instead of a register full.
- Division by zero gives infinity, as in NumPy, not an exception.
- Compiled code is cached beside the source, or in the user's cache folder. A cache that can't be written or read is not
  an error: the kernels are compiled anew. Numba looks at a function's own file to see whether a cached one is out of
  date; a kernel that calls another file's function would miss that file's edits, so our stamp covers all the kernels'
  files.
- The first time something must be compiled, a line on stderr says so. compiler.py says who compiles, and why.
- What a longer piece of work will need can be noted without running it, and compiled at once: ``noting``,
  ``compile_noted``.
"""

import hashlib
import os
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import numba
import numpy as np
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile

from npgpt.kernels import compiler
from npgpt.kernels.machine.cpu import UNIT

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
INLINED = {"error_model": "numpy", "forceinline": True}  # a call inside a loop would keep it from being vectorised
ENOUGH_FOR_THREADS = 1 << 15  # numbers in all arrays of a call: some 20 microseconds of work

_FOLDER = Path(__file__).parent


def jit(function):
    """Compile a serial function, or one that is called inside a parallel loop."""
    return _cached(numba.njit(fastmath=FASTMATH, error_model="numpy", nogil=True)(function))


def parallel_jit(function):
    """Compile a function whose ``prange`` loops run over what is written: the result doesn't depend on the threads.

    With little to do it runs on one thread. Starting and awaiting the others takes longer than they would save, and on
    a machine that is busy with something else a thousand times longer. What there is to do is taken to be as much as
    there are numbers in the arrays that are handed over, unless ``work`` says otherwise.
    """
    kernel = _cached(numba.njit(parallel=True, fastmath=FASTMATH, error_model="numpy", nogil=True)(function))

    @wraps(function)
    def launch(*arguments, work=None):
        notes = _notes.get()
        if notes is not None:
            notes[kernel, tuple(map(kernel.typeof_pyval, arguments))] = True
            return None
        if work is None:
            work = sum(x.size for x in arguments if isinstance(x, np.ndarray))
        if work >= ENOUGH_FOR_THREADS:
            return kernel(*arguments)
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return kernel(*arguments)
        finally:
            numba.set_num_threads(threads)

    launch.dispatcher = kernel
    return launch


_notes = ContextVar("npgpt_notes", default=None)


@contextmanager
def noting():
    """``with noting() as notes:`` no parallel kernel runs. ``notes`` has as keys what was called with what types.

    What kernels would have written is not, so all that is computed here is void.
    """
    notes = {}
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def compile_noted(notes, stop=lambda: False) -> None:
    """Compile what is noted and not in the cache, by as many processes as threads compute, until ``stop()``."""
    cached = [(kernel, types) for kernel, types in notes if isinstance(kernel._cache, _SharedCache)]
    missing = [(k.py_func, types) for k, types in cached if not k._cache.holds(types, k.targetctx)]
    compiler.compile_all(missing, numba.get_num_threads(), stop)


def exact_jit(function):
    """Compile without reassociation, for arithmetic whose order matters (a constant split in two, say). Inlined."""
    return _cached(numba.njit(fastmath={"contract"}, nogil=True, **INLINED)(function))


def _cached(dispatcher):
    with suppress(RuntimeError, OSError):  # no folder that can be written: compile in each process
        dispatcher._cache = _SharedCache(dispatcher.py_func)
    return dispatcher


def _stamp_of_all_kernels():
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_STAMP = _stamp_of_all_kernels()


class _SharedCache(FunctionCache):
    """Numba's cache, filled by the process that compiles. A full disk or a damaged file is a miss and not an error."""

    def __init__(self, py_func):
        super().__init__(py_func)
        self._cache_file = _LockedFile(self._cache_path, self._impl.filename_base, _STAMP)

    def _index_key(self, signature, codegen):
        return *super()._index_key(signature, codegen), UNIT.bytes, UNIT.rows, UNIT.vectors

    def load_overload(self, signature, target_context):
        found = self._stored(signature, target_context)
        if found is None and compiler.compile_elsewhere(self._py_func, signature):
            found = self._stored(signature, target_context)
            if found is None:
                compiler.compile_here()
        return found

    def holds(self, signature, target_context) -> bool:
        """Whether its index names this signature, without loading what was compiled for it."""
        try:
            return self._index_key(signature, target_context.codegen()) in self._cache_file._load_index()
        except Exception:  # a damaged file, as below
            return False

    def _stored(self, signature, target_context):
        try:
            return super().load_overload(signature, target_context)
        except Exception:  # a damaged file can raise anything while it is unpickled
            return None

    def save_overload(self, signature, data):
        with suppress(Exception):
            super().save_overload(signature, data)


class _LockedFile(IndexDataCacheFile):
    """An index and the files that it names, which one process at a time may write.

    Numba replaces each file at once, but the index before what it names. Two processes that compile what both their
    kernels call could give one file two contents.
    """

    def load(self, key):
        with self._locked(write=False):
            return super().load(key)

    def save(self, key, data):
        with self._locked(write=True):
            super().save(key, data)

    @contextmanager
    def _locked(self, write):
        if fcntl is None:
            yield
            return
        folder = os.open(self._cache_path, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(folder, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
            yield
        finally:
            os.close(folder)


class _Announce(event.Listener):
    def on_start(self, event):
        if event.data["dispatcher"].py_func.__module__.startswith("npgpt."):
            compiler.announce()

    def on_end(self, event):
        pass


event.register("numba:compile", _Announce())
