"""A barrier: threads wait for each other within one compiled function, in a fraction of a microsecond.

Launching a parallel loop takes some microseconds, and a token would need five in each layer. Here all threads start
once, and between two steps each waits, without sleeping, until all have come. The others would wait for ever for one
that never comes. So threads first ``meet``: if they are not all there in time (a threading layer may run one after the
other), all of them learn that it was in vain.

A barrier is an array of two int64, zeros at first: how many arrivals there were, and whether the threads have met.
"""

import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.jit import jit

_I64 = ir.IntType(64)
_MET, _IN_VAIN = 1, 2
_LOOKS = 4_000  # at the other threads, before the operating system is asked to let others run
_PATIENCE = 200_000  # looks: a tenth of a second


@intrinsic
def _add(context, address, value):
    """Add to an int64 -> what it was before, in one step that no other thread can divide."""

    def codegen(context, builder, signature, arguments):
        address, value = arguments
        return builder.atomic_rmw("add", builder.inttoptr(address, _I64.as_pointer()), value, "seq_cst")

    return types.int64(address, value), codegen


@intrinsic
def _replace(context, address, before, after):
    """Replace an int64 if it is ``before`` -> what it was."""

    def codegen(context, builder, signature, arguments):
        address, before, after = arguments
        pointer = builder.inttoptr(address, _I64.as_pointer())
        return builder.extract_value(builder.cmpxchg(pointer, before, after, "seq_cst", "seq_cst"), 0)

    return types.int64(address, before, after), codegen


@intrinsic
def _read(context, address):
    """An int64 as other threads have written it by now."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], _I64.as_pointer()), "seq_cst", 8)

    return types.int64(address), codegen


@intrinsic
def _yield(context):
    """Let another thread run on this core."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(function, [])

    return types.int32(), codegen


@jit
def meet(barrier, threads):
    """The first call of each thread -> whether all of them are there."""
    address = np.int64(barrier.ctypes.data)
    if _add(address, np.int64(1)) == threads - 1:
        _replace(address + 8, np.int64(0), np.int64(_MET))
    looks = 0
    while _read(address + 8) == 0:
        looks += 1
        if looks > _LOOKS:
            _yield()
        if looks > _PATIENCE:
            _replace(address + 8, np.int64(0), np.int64(_IN_VAIN))
    return _read(address + 8) == _MET


@jit
def wait(barrier, threads):
    """Return when all threads have called it as often as this one, counting ``meet``."""
    address = np.int64(barrier.ctypes.data)
    arrival = _add(address, np.int64(1))
    target = (arrival // threads + 1) * threads
    looks = 0
    while _read(address) < target:
        looks += 1
        if looks > _LOOKS:
            _yield()
