"""Numba's compiler, made to optimise a kernel and generate its machine code once, together with all that it calls.

Left to itself, Numba does both for a function, then again for each function that calls it, which has a copy of it
inside, and so on up to the kernel; and twice more for the body of a parallel loop. A matrix product is at the bottom of
many kernels. Here a function that another one calls is a *part*: its LLVM IR is linked with that of what it calls, and
that is all. Only a kernel, which Python calls, is optimised and becomes machine code, with all its parts.

Nothing runs in the engine that compiles. A kernel's code is bytes, and ``load_kernel`` makes of them what runs: so a
process that compiles a kernel and one that finds it in the cache run the same.

All of this is beyond Numba's documented interface. docs/numba.md says why, and what to do when a new Numba breaks it.
"""

import pickle
from functools import cached_property
from typing import Any

from llvmlite.binding import parse_assembly
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompileResult
from numba.core.cpu import CPUContext
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.core.runtime.nrt import rtsys
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
    """Compile a function that another one calls, for arguments of Numba's ``types``; ``return_type`` may be None."""
    return dumps(_linked(parts, types, return_type)._reduce())


def load_part(code: bytes) -> CompileResult:
    """A part, ready to be linked."""
    return CompileResult._rebuild(_TARGET.target_context, *pickle.loads(code))


def compile_kernel(dispatcher: Dispatcher, types: tuple, return_type: Any) -> bytes:
    """Compile a function that Python calls; arguments as above."""
    result = _linked(dispatcher, types, return_type)
    result.library.generate_machine_code()
    return dumps(result._reduce())


def _linked(dispatcher, types, return_type):
    result = dispatcher._compiler.compile(types, return_type)
    if result.library.has_dynamic_globals:
        raise TypeError(f"{dispatcher.__name__} holds an address that means nothing to other processes")
    return result


def load_kernel(code: bytes) -> CompileResult:
    """A kernel, ready to run, in an engine of its own: there, no function of the same name takes its place.

    It needs Numba's runtime, and none of what the compiler knows about functions, which takes 0.2 s to gather.
    """
    engine = CPUContext(cpu_target.typing_context, "cpu")
    rtsys.initialize(engine)
    return CompileResult._rebuild(engine, *pickle.loads(code))


class _Library(JITCodeLibrary):
    """The LLVM IR of a function and of all that it calls; of a kernel also the machine code."""

    machine_code = None

    def generate_machine_code(self):
        self._ensure_finalized()
        super()._optimize_final_module()
        self.machine_code = self._codegen._tm.emit_object(self._final_module)

    def serialize_using_object_code(self):
        """What ``CompileResult._reduce`` asks for.

        Numba keeps a kernel's IR beside its machine code. Nothing is linked with a kernel, so its names are enough.
        """
        if self.machine_code is None:
            return self.serialize_using_bitcode()
        values = [*self._final_module.functions, *self._final_module.global_variables]
        names = [f'@"{value.name}" = global i8 0' for value in values if not value.is_declaration]
        return self.name, "object", (self.machine_code, parse_assembly("\n".join(names)).as_bitcode())

    def _optimize_final_module(self):
        """Nothing yet. Numba calls this, and then the next method, when the IR is linked."""

    def _finalize_final_module(self):
        """As Numba's, but for its last step, which generates machine code."""
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name):
        """0: there is nothing to run."""
        self._ensure_finalized()
        return 0


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    def set_env(self, env_name, env):
        """Nothing. Numba's own writes into the function's code in memory."""


class _Target(CPUTarget):
    @cached_property
    def target_context(self):
        """Numba's own, with all functions that it knows, but with this way of generating code."""
        return cpu_target.target_context.subtarget(_internal_codegen=_Codegen("npgpt"))

    @property
    def typing_context(self):
        return cpu_target.typing_context


_TARGET = _Target("cpu")


class _PartDispatcher(CPUDispatcher):
    targetdescr = _TARGET
