"""What holds of every kernel in the table. Each kernel's own file says on what it is tried, in CASES."""

import importlib
from pathlib import Path

import numba
import numpy as np
import pytest
from helpers.versions import large_arguments, not_a_number_comes_out, places_for_nan, run, versions_agree
from hypothesis import given
from hypothesis import strategies as st

from npgpt.kernels import DECODING, FEW_BITS, KERNELS, jit

CASES = {}
for path in sorted(Path(__file__).parent.glob("test_*.py")):
    if path != Path(__file__):
        CASES |= getattr(importlib.import_module(f"{__package__}.{path.stem}"), "CASES", {})

each_kernel = pytest.mark.parametrize("name", CASES)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def test_every_kernel_is_tried():
    assert CASES.keys() == KERNELS.keys()


def test_every_kernel_has_a_plain_version_and_a_compiled_one():
    for name, versions in (KERNELS | DECODING | FEW_BITS).items():
        assert {"numpy", "numba"} <= versions.keys(), name
        for version, function in versions.items():
            assert function.__name__ == f"{name}_{version}"


@pytest.mark.parametrize(("value", "backend"), [(None, "numba"), ("numba", "numba"), ("numpy", "numpy")])
def test_the_environment_chooses_the_versions(python, value, backend):
    done = python(
        "from npgpt import kernels\n"
        "for name, versions in (kernels.KERNELS | kernels.DECODING | kernels.FEW_BITS).items():\n"
        "    assert getattr(kernels, name) is versions[kernels.BACKEND], name\n"
        "print(kernels.BACKEND)",
        NPGPT_KERNELS=value,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{backend}\n", "")


def test_the_plain_versions_compile_nothing(python, tmp_path):
    """On an empty cache, so that compiling would be announced."""
    done = python(
        "from npgpt import Tensor, ops; import numpy as np\n"
        "x = Tensor(np.ones((2, 3, 12)), requires_grad=True)\n"
        "ops.gelu_tanh(ops.causal_self_attention(x, 2, dropout=0.1)).sum().backward()\n"
        "print(x.grad.shape)",
        NPGPT_KERNELS="numpy",
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2, 3, 12)\n", "")


@pytest.mark.parametrize("value", ["cuda", "", "NUMBA"])
def test_a_wrong_choice_is_named(python, value):
    done = python("import npgpt.kernels", NPGPT_KERNELS=value)
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line == f"npgpt.errors.ConfigError: NPGPT_KERNELS must be numpy or numba, not {value!r}"


@each_kernel
@given(data=st.data())
def test_versions_agree(name, data):
    versions_agree(name, CASES[name], data.draw(CASES[name].arguments))


@each_kernel
@each_dtype
def test_versions_agree_on_several_blocks(name, dtype):
    versions_agree(name, CASES[name], large_arguments(CASES[name], dtype))


@each_kernel
@each_dtype
def test_not_a_number_never_vanishes(name, dtype):
    arguments = large_arguments(CASES[name], dtype)
    for i in places_for_nan(CASES[name], arguments):
        place = arguments[i].size * 3 // 4  # which isn't ignored, and not a query that sees nothing but padding
        results = not_a_number_comes_out(name, CASES[name], arguments, i, place, np.nan)
        assert any(np.isnan(x).any() for x in results), f"argument {i}"


@each_kernel
@given(data=st.data())
def test_not_a_number_comes_out_where_the_plain_version_has_it(name, data):
    """Whatever else is in the arguments, which may hide it: padding, an ignored target, a row that nobody read."""
    arguments = data.draw(CASES[name].arguments)
    if places := places_for_nan(CASES[name], arguments):
        i = data.draw(st.sampled_from(places))
        place = data.draw(st.integers(0, arguments[i].size - 1))
        special = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        not_a_number_comes_out(name, CASES[name], arguments, i, place, special)


@each_kernel
@each_dtype
def test_the_number_of_threads_changes_no_bit(name, dtype, monkeypatch):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba has one thread here (one core, or NUMBA_NUM_THREADS=1)")
    monkeypatch.setattr(jit, "MIN_PARALLEL_SIZE", 0)  # all of them, however little there is to do
    arguments, before = large_arguments(CASES[name], dtype), numba.get_num_threads()
    for version in KERNELS[name].keys() - {"numpy"}:
        results = set()
        try:
            for threads in {1, 2, numba.config.NUMBA_NUM_THREADS}:
                numba.set_num_threads(threads)
                results.add(tuple(x.tobytes() for x in run(KERNELS[name][version], CASES[name], arguments)))
        finally:
            numba.set_num_threads(before)
        assert len(results) == 1, f"{name}, {version}"
