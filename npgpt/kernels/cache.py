"""The cache of compiled kernels, and of the parts they are made of (compiler.py).

docs/numba.md says why it uses what Numba does not document, and what to do when a new Numba breaks it.

Why not Numba's own cache? It recompiles a function when its file changes in any way, and misses changes in other files
whose functions are compiled into it. It lets two processes that save at once mix up their files. And results may differ
in the last bits between a process that compiles a kernel and one that loads it: Numba optimises a parallel loop's body
by itself, then again with the function around it. Here every process runs what it has loaded, in an engine of its own.
"""

import hashlib
import os
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.sigutils import normalize_signature

from npgpt.kernels import compiler, progress
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.stamps import stamp

_VERSIONS = numba.__version__, np.__version__, sys.version_info[:2]


def write_in_one_go(path: Path, content: bytes) -> OSError | None:
    """Write a file that other processes see whole or not at all. -> None, or why it could not be written."""
    new = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        try:
            new.write_bytes(content)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


class KernelCache:
    """The cache of one jitted function. A dispatcher asks it before it compiles: it never has to compile itself.

    Each compiled version has a file of its own, named after the function, its argument types and the versions of what
    compiles it: a digest, then the compiled code. The digest covers the code and the source's stamp, so a file that is
    out of date, cut off or damaged is a miss. A file is replaced in one go, so processes need no locks.

    If the source's folder can't be written (an image or a system-wide install), the files that its owner compiled are
    used, and what is missing there is kept in the user's folder.

    Nothing is cached of a function without a source file (typed into a notebook), or of one that uses variables of a
    function around it, whose values the source doesn't tell; nor if no folder can be written.
    """

    suffix = ".kernel"
    _make, _load = staticmethod(compiler.compile_kernel), staticmethod(compiler.load_kernel)

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        function = dispatcher.py_func
        self._source, self._stamp = Path(function.__code__.co_filename), ""
        self.cache_path = None  # where files are written; None: each process compiles
        self._folders = []  # where they are read
        with suppress(RuntimeError, OSError):
            if not function.__closure__:
                self._stamp = stamp(self._source)  # now: the file may be edited before the function is compiled
                if not numba.config.CACHE_DIR:
                    self._folders.append(str(self._source.parent / "__pycache__"))
                # Private: Numba's search: NUMBA_CACHE_DIR, __pycache__ beside the source, the user's cache folder.
                found = CompileResultCacheImpl(function).locator.get_cache_path()
                if found.startswith("~"):  # of a user without a home: a folder of that name, which Numba has just made
                    os.removedirs(found)
                else:
                    self.cache_path = found
                    self._folders += [found] if found not in self._folders else []

    def holds(self, types: tuple) -> bool:
        """Whether a file for these argument types is there and good. Nothing is loaded."""
        return self._read(types) is not None

    def load_overload(self, signature: Any, target_context: Any) -> CompileResult:
        """Private: called by ``Dispatcher.compile``, under Numba's lock. What is returned is what will run."""
        types, return_type = normalize_signature(signature)
        code = self._read(types)
        if code is None:
            code = self._compile(types, return_type)
            self._write(types, code)
        return self._load(code)

    def save_overload(self, signature: Any, result: CompileResult) -> None:
        """Private: called by ``Dispatcher.compile`` after it has compiled, which it never does here."""

    def _compile(self, types, return_type) -> bytes:
        """Compile, and with it what the function calls, which comes here in turn; only the outermost call is timed."""
        progress.announce(is_kept=self.cache_path is not None)
        before, began = progress.seconds, perf_counter()
        try:
            return self._make(self._dispatcher, types, return_type)
        finally:
            progress.seconds = before + perf_counter() - began

    def _read(self, types) -> bytes | None:
        for folder in self._folders:
            with suppress(OSError):  # no such file, no folder
                content = Path(folder, self._name(types)).read_bytes()
                if content[:32] == self._digest(content[32:]):
                    return content[32:]
        return None

    def _write(self, types, code):
        if self.cache_path is not None:
            path = Path(self.cache_path, self._name(types))
            if error := write_in_one_go(path, self._digest(code) + code):
                progress.announce_loss(path.parent, error)

    def _digest(self, code) -> bytes:
        return hashlib.sha256(self._stamp.encode() + code).digest()

    def _name(self, types) -> str:
        # Private: magic_tuple describes the processor that Numba compiles for.
        machine = self._dispatcher.targetctx.codegen().magic_tuple()
        key = hashlib.sha256(repr((types, machine, UNIT, _VERSIONS)).encode()).hexdigest()[:16]
        return f"{self._source.stem}.{self._dispatcher.__name__}-{key}{self.suffix}"


class PartCache(KernelCache):
    """The same for the function as a part of the kernels that call it."""

    suffix = ".part"
    _make, _load = staticmethod(compiler.compile_part), staticmethod(compiler.load_part)


def cached(dispatcher: Dispatcher) -> Dispatcher:
    """Give a jitted function a cache of this kind. -> the function"""
    if numba.config.DISABLE_JIT:  # then nothing is jitted
        return dispatcher
    parts = compiler.parts_of(dispatcher)
    # Private: where a dispatcher looks before it compiles.
    dispatcher._cache, parts._cache = KernelCache(dispatcher), PartCache(parts)
    return dispatcher
