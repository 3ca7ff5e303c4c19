"""kernels/machine/gemm.py: both of the products that it can call, and that BLAS is left as it was."""

import ctypes
import json

import numba
import numpy as np
import pytest
from arrays import lay_out
from tolerances import rounding

from npgpt.kernels.machine import gemm as machine
from npgpt.kernels.machine.gemm import NO_TRANSPOSE, TRANSPOSE, gemm, one_blas_thread


@numba.njit
def multiply(transpose_a, transpose_b, a, b, accumulate, c):
    """c (+)= op(a) op(b), of which all rows have room for more columns."""
    K = a.shape[0] if transpose_a == TRANSPOSE else a.shape[1]
    gemm(
        transpose_a, transpose_b, c.shape[0], c.shape[1], K, a.ctypes.data, a.strides[0] // a.itemsize,
        b.ctypes.data, b.strides[0] // b.itemsize, accumulate, c.ctypes.data, c.strides[0] // c.itemsize,
        c.dtype.type(0)
    )  # fmt: skip


def check_all_ways():
    """Raise AssertionError unless ``gemm`` is right: transposed or not, adding or not, rows of any distance.

    Whole numbers, so the result is exact. What is not to be read or not to be added to is NaN.
    """
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for M, K, N in ((1, 1, 1), (3, 5, 2), (66, 70, 65), (7, 300, 4)):
            for transpose_a in (NO_TRANSPOSE, TRANSPOSE):
                for transpose_b in (NO_TRANSPOSE, TRANSPOSE):
                    for accumulate in (0, 1):
                        a, b, before = (rng.integers(-9, 10, shape) for shape in ((M, K), (K, N), (M, N)))
                        a_given = a.T if transpose_a == TRANSPOSE else a
                        b_given = b.T if transpose_b == TRANSPOSE else b
                        A, B, C = (lay_out(x.astype(dtype), "slice") for x in (a_given, b_given, before))
                        if not accumulate:
                            C[...] = np.nan
                        multiply(np.int32(transpose_a), np.int32(transpose_b), A, B, np.int32(accumulate), C)
                        np.testing.assert_array_equal(C, a @ b + accumulate * before)
                        beyond = np.delete(C.base, np.s_[1 : 1 + N], axis=1)
                        assert np.isnan(beyond).all(), "written beside the matrix"


def test_all_ways():
    check_all_ways()


def test_blas_is_used_where_numpy_has_openblas(python):
    config = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if "scipy-openblas" not in config:
        pytest.skip(f"NumPy here comes with {config}")
    done = python("from npgpt.kernels.machine import gemm; print(gemm.PROVIDER)", NPGPT_BLAS=None)
    assert done.stdout == "NumPy's OpenBLAS\n", done.stderr


def test_blas_has_its_threads_again_afterwards():
    if machine._openblas is None:
        pytest.skip("NumPy here comes without OpenBLAS")
    threads = machine._openblas.scipy_openblas_get_num_threads64_
    threads.restype = ctypes.c_int
    before = threads()
    with one_blas_thread():
        assert threads() == 1
    assert threads() == before
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError
    assert threads() == before


# What the next test runs, here with BLAS and in another process without.
BATTERY = """
import json
import numpy as np
from npgpt import kernels
from npgpt.kernels.machine import gemm

results = {}
for dtype in (np.float32, np.float64):
    rng = np.random.default_rng(0)
    a, b, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((150, 90), (90, 140), (140,)))
    for name, (x, y) in {"plain": (a, b), "transposed": (b.T, a.T), "sliced": (a[:, 5:80], b[5:80])}.items():
        results[f"{name} {np.dtype(dtype)}"] = kernels.matmul(x, y, bias if name == "plain" else None)
    qkv, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 70, 3, 2, 8), (2, 70, 2, 8)))
    q, k, v = (qkv[:, :, i] for i in range(3))
    real = np.arange(70) >= np.array([[0], [3]])
    y, mz = kernels.attention_forward(q, k, v, 0.3, real, 0.1, 5)
    dq, dk, dv = (np.empty_like(dy) for _ in range(3))
    kernels.attention_backward(dy, q, k, v, mz, 0.3, dq, dk, dv, real, 0.1, 5)
    for name, x in {"y": y, "mz": mz, "dq": dq, "dk": dk, "dv": dv}.items():
        results[f"{name} {np.dtype(dtype)}"] = x
"""
PRINT = "print(json.dumps([gemm.PROVIDER, {name: x.ravel().tolist() for name, x in results.items()}]))"


def test_without_blas_the_results_are_the_same(python):
    done = python(BATTERY + PRINT, NPGPT_BLAS="none")
    assert done.returncode == 0, done.stderr
    provider, without = json.loads(done.stdout)
    assert provider == "npgpt's blocked product"
    here = {}
    exec(BATTERY, here)
    for name, right in here["results"].items():
        # Sums of up to 140 products of normal numbers, whose absolute values add up to less than 140; in attention's
        # backward pass, two such sums in a row.
        np.testing.assert_allclose(
            np.reshape(without[name], right.shape), right, rtol=0, atol=140 * rounding(right.dtype, 140), err_msg=name
        )


def test_our_own_product_in_all_ways(python):
    """The same checks as above, in a process that has no BLAS."""
    done = python(
        "import sys; sys.path.insert(0, 'tests'); from kernels.test_gemm import check_all_ways; check_all_ways()",
        NPGPT_BLAS="none",
    )
    assert done.returncode == 0, done.stderr
