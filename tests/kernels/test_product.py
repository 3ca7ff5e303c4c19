"""kernels/machine/product.py, which makes all large products, on each vector unit of this machine, and NEON's."""

import platform
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from helpers.arrays import lay_out

from npgpt import kernels
from npgpt.kernels import jit
from npgpt.kernels.machine import cpu
from npgpt.kernels.machine.product import K_BLOCK, M_BLOCK, N_BLOCK, gemm
from npgpt.kernels.machine.vectors import IN_PAIRS, IN_TILES

SHAPES = [  # M, K, N: single numbers, parts of tiles, several panels, several blocks each way
    (1, 1, 1),
    (3, 5, 2),
    (5, 0, 7),
    (12, 16, 32),
    (66, 70, 65),
    (7, 300, 4),
    (2 * M_BLOCK + 1, K_BLOCK + 17, 9),
    (13, 2 * K_BLOCK, N_BLOCK + 33),
]

UNITS = list(dict.fromkeys([*cpu.available(), "neon"]))  # LLVM writes NEON's tiles, of 8 x 12, for any CPU


@jit.jit
def multiply(a, a_row, a_column, b, b_row, b_column, start, start_row, c, M, N, K, dtype_tag):
    gemm(
        M, N, K, np.int64(a.ctypes.data), a_row, a_column, np.int64(b.ctypes.data), b_row, b_column, start, start_row,
        np.int64(c.ctypes.data), c.strides[0] // c.itemsize, dtype_tag
    )  # fmt: skip


def product(a, b, start, start_row, c, dtype_tag):
    steps = [step // x.itemsize for x in (a, b) for step in x.strides]
    multiply(a, *steps[:2], b, *steps[2:], start, start_row, c, *c.shape, a.shape[1], dtype_tag)


# In tiles: a block of C and parts of one, several blocks each way. Plain code takes its time.
SHAPES_IN_TILES = [(1, 1, 1), (64, 32, 32), (66, 70, 65), (257, K_BLOCK + 17, 33), (13, 40, 550)]


def cases():
    """The type tags that this process's unit brings, and shapes for them."""
    if cpu.UNIT.tiles:
        return [(IN_TILES[pieces], SHAPES_IN_TILES) for pieces in (1, 3)]
    pairs = [(IN_PAIRS, [*SHAPES, (3, 20, 2 * N_BLOCK + 33)])] if cpu.UNIT.has_bf16 else []  # whose blocks are larger
    return [(np.float32(0), SHAPES), (np.float64(0), SHAPES), *pairs]


def check_all_ways():
    """Raise AssertionError unless ``gemm`` is right: transposed or not, with every start, rows of any distance.

    Whole numbers, so the result is exact, in bfloat16 too. What is not to be read or not to be written is NaN.
    """
    rng = np.random.default_rng(0)
    for dtype_tag, shapes in cases():
        dtype = np.float64 if dtype_tag.itemsize == 8 else np.float32
        for M, K, N in shapes:
            a, b, before, bias = (rng.integers(-9, 10, shape) for shape in ((M, K), (K, N), (M, N), (N,)))
            for a_given in (a, a.T):
                for b_given in (b, b.T):
                    A, B = (lay_out(x.astype(dtype), "slice") for x in (a_given, b_given))
                    A, B = A if a_given is a else A.T, B if b_given is b else B.T
                    for start in ("nothing", "c", "bias"):
                        C = lay_out(before.astype(dtype), "slice")
                        bias_given = bias.astype(dtype)
                        right, address, row = {
                            "nothing": (a @ b, 0, 0),
                            "c": (a @ b + before, C.ctypes.data, C.strides[0] // C.itemsize),
                            "bias": (a @ b + bias, bias_given.ctypes.data, 0),
                        }[start]
                        if start != "c":
                            C[...] = np.nan
                        product(A, B, address, row, C, dtype_tag)
                        np.testing.assert_array_equal(C, right, err_msg=f"{type(dtype_tag)} {M, K, N} {start}")
                        beyond = np.delete(C.base, np.s_[1 : 1 + N], axis=1)
                        assert np.isnan(beyond).all(), "written beside the matrix"
        # Either side is divided among threads, with several blocks of k; and with several blocks of lines.
        lines = 5 * N_BLOCK * numba.get_num_threads() + 33
        for M, K, N in ((130, K_BLOCK + 33, 65), (65, K_BLOCK + 33, 130), (lines, 20, 30), (30, 20, lines)):
            a, b, bias = (rng.integers(-9, 10, shape).astype(dtype) for shape in ((M, K), (K, N), (N,)))
            right = a @ b + bias
            for A in (a, np.asfortranarray(a)):
                for B in (b, np.asfortranarray(b)):
                    np.testing.assert_array_equal(kernels.matmul(A, B, bias), right)
                    np.testing.assert_array_equal(kernels.matmul(A, B, add_to=right.copy()), 2 * right - bias)


@pytest.fixture(scope="module")
def ended(python):
    """{unit: a process that ran ``check_all_ways`` with it}, two at a time."""

    def run(unit):
        return python(
            f"import platform; platform.machine = lambda: {('aarch64' if unit == 'neon' else platform.machine())!r}\n"
            "import sys; sys.path.insert(0, 'tests')\n"
            "from npgpt.kernels.machine.cpu import UNIT\n"
            "from kernels.test_product import check_all_ways\n"
            "check_all_ways(); print(UNIT.name)",
            NPGPT_CPU=unit,
            MALLOC_MMAP_THRESHOLD_="4096",  # glibc: memory that is used after it was freed isn't there any more
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(UNITS, pool.map(run, UNITS), strict=True))


@pytest.mark.parametrize("unit", UNITS)
def test_all_ways_on_each_vector_unit(ended, unit):
    assert (ended[unit].returncode, ended[unit].stdout) == (0, f"{unit}\n"), ended[unit].stderr


def test_nan_and_infinity_stay_in_their_row_and_column():
    """Whatever lies in the same tile."""
    a, b = np.ones((40, 70), np.float32), np.ones((70, 100), np.float32)
    a[7, 3], b[60, 33] = np.nan, np.inf
    c = kernels.matmul(a, b)
    right = np.full((40, 100), 70.0)
    right[:, 33], right[7] = np.inf, np.nan
    np.testing.assert_array_equal(c, right)


def test_the_bits_of_a_part_are_those_of_the_whole():
    """However C is shared out among threads: by rows, by columns."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((230, 1000), np.float32), rng.standard_normal((1000, 300), np.float32)
    whole = kernels.matmul(a, b)
    for i, j in ((0, 0), (96, 0), (13, 130), (200, 200)):
        np.testing.assert_array_equal(kernels.matmul(a[i : i + 30], b[:, j : j + 90]), whole[i : i + 30, j : j + 90])


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows(rows, dtype, monkeypatch):
    """They have a way of their own, which reads b where it lies."""
    monkeypatch.setattr(jit, "MIN_PARALLEL_SIZE", 0)
    rng = np.random.default_rng(0)
    a, b, bias = (rng.integers(-9, 10, shape).astype(dtype) for shape in ((rows, 1001), (1001, 300), (300,)))
    for B in (b, np.asfortranarray(b), lay_out(b, "slice"), lay_out(b, "every second")):
        np.testing.assert_array_equal(kernels.matmul(a, B, bias), a @ b + bias)
        np.testing.assert_array_equal(kernels.matmul(a, B), a @ b)
