"""One matrix product on one thread, C = op(A) op(B) or C += op(A) op(B), called from inside jitted code.

This is the place where large products are made. ``gemm`` calls an external function by its name; which function that
is, is decided here when the process starts:

- the BLAS inside NumPy's wheels (OpenBLAS). It is told to use one thread while we call it, because Numba's threads
  split the work: two pools of threads that take turns wait for each other, and that cost a quarter of a training step;
- our own ``add_product``, where NumPy comes with another BLAS (Accelerate, MKL), or when NPGPT_BLAS=none is set.

A kernel of ours that is faster than both goes here, and nothing else changes.
"""

import ctypes
import os
from contextlib import contextmanager

import numpy as np
from llvmlite import binding, ir
from numba import carray, cfunc, types
from numba.extending import intrinsic

from npgpt.kernels.blocked_product import add_product

NO_TRANSPOSE, TRANSPOSE = 111, 112  # CBLAS's own numbers, also 101 for "rows are contiguous"
_SYMBOL = {types.float32: "npgpt_sgemm", types.float64: "npgpt_dgemm"}


@intrinsic
def gemm(context, transpose_a, transpose_b, M, N, K, A, lda, B, ldb, accumulate, C, ldc, like):
    """C (M, N) = op(A) (M, K) @ op(B) (K, N), added to what C holds if ``accumulate`` is 1 and not if it is 0.

    A, B, C are addresses; lda, ldb, ldc the distances between rows in elements. The elements' type is that of ``like``.
    """
    if like not in _SYMBOL:
        raise TypeError(f"gemm takes float32 and float64, not {like}")
    whole, address = types.int64, types.uintp
    signature = types.void(
        types.int32, types.int32, whole, whole, whole, address, whole, address, whole, types.int32, address, whole, like
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        transpose_a, transpose_b, M, N, K, A, lda, B, ldb, accumulate, C, ldc, _ = arguments
        i32, i64, pointer = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
        real = context.get_value_type(like)
        inputs = [i32, i32, i32, i64, i64, i64, real, pointer, i64, pointer, i64, real, pointer, i64]
        function_type = ir.FunctionType(ir.VoidType(), inputs)
        function = builder.module.globals.get(_SYMBOL[like])
        if function is None:
            function = ir.Function(builder.module, function_type, _SYMBOL[like])
        A, B, C = (builder.inttoptr(x, pointer) for x in (A, B, C))
        one, beta = ir.Constant(real, 1.0), builder.sitofp(accumulate, real)
        order = ir.Constant(i32, 101)
        builder.call(function, [order, transpose_a, transpose_b, M, N, K, one, A, lda, B, ldb, beta, C, ldc])
        return context.get_dummy_value()

    return signature, codegen


def _gemm_of_our_own(real):
    """``add_product`` behind CBLAS's signature, compiled only where it is needed."""
    i32, i64, pointer = types.int32, types.int64, types.CPointer(real)
    signature = types.void(i32, i32, i32, i64, i64, i64, real, pointer, i64, pointer, i64, real, pointer, i64)

    @cfunc(signature)
    def own_gemm(order, transpose_a, transpose_b, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc):
        a = carray(A, (K, lda))[:, :M].T if transpose_a == TRANSPOSE else carray(A, (M, lda))[:, :K]
        b = carray(B, (N, ldb))[:, :K].T if transpose_b == TRANSPOSE else carray(B, (K, ldb))[:, :N]
        c = carray(C, (M, ldc))[:, :N]
        if beta == 0:
            c[:, :] = 0  # and not c *= 0: what C held may be NaN
        add_product(a, b, c)

    return own_gemm


def _numpys_openblas():
    """The OpenBLAS that NumPy's own extension module is linked to, or None."""
    if os.environ.get("NPGPT_BLAS") == "none":
        return None
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)
        for name in ("cblas_sgemm64_", "cblas_dgemm64_", "openblas_get_num_threads64_", "openblas_set_num_threads64_"):
            getattr(library, "scipy_" + name)
    except (OSError, AttributeError):
        return None
    return library


_openblas = _numpys_openblas()
if _openblas is not None:
    PROVIDER = "NumPy's OpenBLAS"
    _addresses = (_openblas.scipy_cblas_sgemm64_, _openblas.scipy_cblas_dgemm64_)
    _addresses = [ctypes.cast(f, ctypes.c_void_p).value for f in _addresses]
else:
    PROVIDER = "npgpt's blocked product"
    _own = [_gemm_of_our_own(types.float32), _gemm_of_our_own(types.float64)]  # kept: their code must stay in memory
    _addresses = [f.address for f in _own]
for _name, _address in zip(_SYMBOL.values(), _addresses, strict=True):
    binding.add_symbol(_name, _address)


@contextmanager
def one_blas_thread():
    """While Numba's threads call ``gemm``, each call of BLAS stays on its thread; afterwards BLAS is as it was."""
    if _openblas is None:
        yield
        return
    before = _openblas.scipy_openblas_get_num_threads64_()
    _openblas.scipy_openblas_set_num_threads64_(1)
    try:
        yield
    finally:
        _openblas.scipy_openblas_set_num_threads64_(before)
