"""Numba's compiler, made to optimise and translate a kernel once, together with all that it calls.

Left to itself, Numba optimises a function and translates it to machine code, then does so with each function that calls
it, which has a copy of it inside, and so on up to the kernel; and twice more with the body of a parallel loop. A matrix
product is at the bottom of many kernels. Here a function that another one calls is a *part*: it is linked to what it
calls, and that is all. Only a kernel, which Python calls, is optimised and translated, with all its parts.

Nothing runs in the engine that compiles. A kernel's code is bytes, and ``load`` makes of them what runs: so a process
that compiles a kernel and one that finds it in the cache run the same.

All of this is beyond Numba's documented interface. docs/numba.md says why, and what to do when a new Numba breaks it.
"""

import pickle
from functools import cached_property
from typing import Any

from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompileResult
from numba.core.cpu import CPUContext
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.core.serialize import dumps


def parts_of(dispatcher: Dispatcher) -> Dispatcher:
    """A second dispatcher of the same function, for the functions that call it. Its versions can't run by themselves.

    From then on ``dispatcher`` has only the versions that Python calls.
    """
    dispatcher._compiler.targetdescr = _TARGET
    dispatcher.targetoptions["no_cfunc_wrapper"] = True  # nothing in C calls it
    parts = _PartDispatcher(dispatcher.py_func, targetoptions={**dispatcher.targetoptions, "no_cpython_wrapper": True})
    # What the compiler asks about a function that is called.
    dispatcher.get_call_template, dispatcher.get_overload = parts.get_call_template, parts.get_overload
    return parts


def compile_part(parts: Dispatcher, types: tuple, return_type: Any) -> bytes:
    """Compile a function that another one calls."""
    return dumps(parts._compiler.compile(types, return_type)._reduce())


def load_part(code: bytes) -> CompileResult:
    """A part, ready to be linked."""
    return CompileResult._rebuild(_TARGET.target_context, *pickle.loads(code))


def compile_kernel(dispatcher: Dispatcher, types: tuple, return_type: Any) -> bytes:
    """Compile a function that Python calls."""
    result = dispatcher._compiler.compile(types, return_type)
    if result.library.has_dynamic_globals:
        raise TypeError(f"{dispatcher.__name__} holds an address that means nothing to other processes")
    result.library.optimize_and_translate()
    return dumps(result._reduce())


def load_kernel(code: bytes) -> CompileResult:
    """A kernel, ready to run, in an engine of its own: there, no function of the same name takes its place."""
    engine = CPUContext(cpu_target.typing_context, "cpu")
    engine.refresh()
    return CompileResult._rebuild(engine, *pickle.loads(code))


class _Library(JITCodeLibrary):
    """A function with what it calls, in LLVM's language."""

    machine_code = None

    def optimize_and_translate(self):
        self._ensure_finalized()
        super()._optimize_final_module()
        self.machine_code = self._codegen._tm.emit_object(self._final_module)

    def serialize_using_object_code(self):
        """What ``CompileResult._reduce`` asks for."""
        if self.machine_code is None:
            return self.serialize_using_bitcode()
        return self.name, "object", (self.machine_code, self._get_module_for_linking().as_bitcode())

    def _optimize_final_module(self):
        """Numba calls this when all is linked, and then the next method, where its own would translate."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    def set_env(self, env_name, env):
        """Numba's own writes to where a function's code is in memory."""


class _Target(CPUTarget):
    @cached_property
    def target_context(self):
        """Numba's own, which knows what calls what, with another generator of code."""
        return cpu_target.target_context.subtarget(_internal_codegen=_Codegen("npgpt"))

    @property
    def typing_context(self):
        return cpu_target.typing_context


_TARGET = _Target("cpu")


class _PartDispatcher(CPUDispatcher):
    targetdescr = _TARGET
