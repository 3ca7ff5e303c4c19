"""Three pieces of bfloat16 are as exact as float32: docs/three-pieces.md, by the kernels of this process if they are in
tiles (test_tiles_plain.py), and by NumPy."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.pieces import errors
from npgpt import kernels
from npgpt.kernels.bfloat16 import bf16_pieces
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.precision import set_matmul_precision

in_tiles = pytest.mark.skipif(not UNIT.tiles, reason="test_tiles_plain.py runs it in tiles")
TINY = float(np.finfo(np.float32).tiny)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
shapes = st.tuples(*[st.integers(33, 100)] * 3)
scales = st.sampled_from([1.0, 1e-12, 1e12])


@given(st.lists(finite, min_size=1, max_size=20))
def test_three_pieces_are_the_number(numbers):
    """All 24 bits of it. A piece below the smallest normal number is lost."""
    x = np.array(numbers, np.float32)
    total = sum(piece.astype(np.float64) for piece in bf16_pieces(x, 3))
    assert np.all(np.abs(total - x) <= TINY * (np.abs(x) < TINY * 2**24))


@given(st.lists(finite, min_size=1, max_size=20), st.integers(2, 3))
def test_what_pieces_leave(numbers, count):
    """The first one 2^-8 of x at most, two 2^-16, three nothing."""
    x = np.array(numbers, np.float32)
    rest = x - sum(piece.astype(np.float64) for piece in bf16_pieces(x, count))
    assert np.all(np.abs(rest) <= 2.0 ** (-8 * count) * np.abs(x) + TINY)


@in_tiles
@settings(max_examples=15)
@given(shapes, scales, st.integers(0, 2**32 - 1))
def test_the_error_is_not_above_that_of_float32(shape, scale, seed):
    """The root mean square of the distance from float64, beside that of a sum in float32 in the order of k."""
    (M, K, N), rng = shape, np.random.default_rng(seed)
    a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32) * np.float32(scale)
    exact = a.astype(np.float64) @ b
    set_matmul_precision("highest", "tiles")
    in_pieces = kernels.matmul(a, b)
    set_matmul_precision("highest", "vectors")
    ours, vectors = (np.sqrt(np.mean(np.square(c - exact))) for c in (in_pieces, kernels.matmul(a, b)))
    assert ours <= vectors


@in_tiles
def test_the_bits_do_not_depend_on_the_threads():
    rng = np.random.default_rng(0)
    set_matmul_precision("highest", "tiles")
    for M, N in ((200, 70), (70, 200)):
        a, b = rng.standard_normal((M, 1600), np.float32), rng.standard_normal((1600, N), np.float32)
        bias = rng.standard_normal(N, np.float32)
        right = kernels.matmul(a, b, bias)
        threads = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            np.testing.assert_array_equal(kernels.matmul(a, b, bias), right)
        finally:
            numba.set_num_threads(threads)


@in_tiles
def test_the_page_tells_the_truth():
    """docs/three-pieces.md: one piece is off by 2^-8.7, two by 2^-17.8, three by less than float32."""
    for K in (64, 1600):
        found = errors(K)
        assert found["one piece"] == pytest.approx(2.3e-3, rel=0.1)
        assert found["two pieces"] == pytest.approx(4.4e-6, rel=0.1)
        assert found["three pieces"] < found["float32"] / 1.5


def block(value, other=1.0):
    """A product of 64 x 64 x 65 in which one element of A is ``value`` and its partners in B are ``other``."""
    a, b = np.ones((64, 65), np.float32), np.ones((65, 64), np.float32)
    a[5, 7], b[7] = value, other
    set_matmul_precision("highest", "tiles")
    with np.errstate(invalid="ignore"):
        c = kernels.matmul(a, b)
    assert np.array_equal(np.delete(c, 5, 0), np.full((63, 64), 64 + other, np.float32), equal_nan=True)
    return c[5]


@in_tiles
@pytest.mark.parametrize(
    ("value", "other", "result"),
    [
        (np.inf, 1, np.inf),
        (-np.inf, 1, -np.inf),
        (np.nan, 1, np.nan),
        (np.inf, np.inf, np.inf),
        (np.inf, -np.inf, -np.inf),
        (np.inf, 0, np.nan),
        (3.4028235e38, 1, 3.4028235e38),  # float32's largest number, above bfloat16's
        (-3.4028235e38, 1, -3.4028235e38),
        (1e-40, 2.0**120, 64),  # below the smallest normal number: 0. In float32 64 + 1.3e-4
        (1.5 * 2.0**-126, 2.0**126, 65.5),
    ],
)
def test_numbers_at_the_ends_of_the_range(value, other, result):
    found = block(np.float32(value), np.float32(other))
    np.testing.assert_array_equal(found, np.full(64, result, np.float32))
