"""NF4 and bfloat16: the numbers of the paper, what rounding loses, and products with matrices in them."""

import numba
import numpy as np
import pytest
from helpers.tolerances import rounding
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt import kernels
from npgpt.kernels import jit
from npgpt.kernels.few_bits import BLOCK, DYNAMIC, GROUP, NF4, to_bf16, to_nf4
from npgpt.kernels.few_bits_product import few_bits_matmul_numba, few_bits_matmul_numpy
from npgpt.kernels.matmul import matmul_numba

# Dettmers et al. 2023, appendix E.
PAPER = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def weights(K, N, seed=0):
    return (0.02 * np.random.default_rng(seed).standard_normal((K, N))).astype(np.float32)


def test_the_numbers_are_the_papers():
    np.testing.assert_allclose(NF4, PAPER, rtol=0, atol=3e-7)  # which computed them in float32
    assert (NF4[7], DYNAMIC[127]) == (0, 0)


def test_the_numbers_for_scales():
    """127 of either sign, 0 and 1. Those up to 1 are 0.9 / 64 apart, those up to 0.1 0.09 / 32, and so on."""
    assert len(DYNAMIC) == len(set(DYNAMIC)) == 256
    np.testing.assert_array_equal(np.sort(-DYNAMIC[:127]), DYNAMIC[128:255])
    for exponent in range(7):
        low, high = 10.0 ** (exponent - 7), 10.0 ** (exponent - 6)
        numbers = DYNAMIC[(low < DYNAMIC) & (high > DYNAMIC)]
        assert len(numbers) == 2**exponent
        np.testing.assert_allclose(numbers[0], low + 0.45 * high / 2**exponent, rtol=1e-6)


def test_each_weight_becomes_the_nearest_number_of_its_block():
    W = weights(40, 200)  # three blocks and a part of one in each row
    rounded = to_nf4([W], W.shape).rows()
    for k in range(40):
        for first in range(0, 200, BLOCK):
            block, found = W[k, first : first + BLOCK], rounded[k, first : first + BLOCK]
            numbers = NF4 * np.abs(block).max()
            nearest = numbers[np.abs(block[:, None] - numbers).argmin(axis=1)]
            # The scale itself is rounded: by half the distance of two DYNAMIC, times how far scales are apart.
            np.testing.assert_allclose(found, nearest, rtol=0.02, atol=1e-7)


def test_scales_are_kept_in_8_bits_and_their_groups_in_float32():
    W = weights(3, BLOCK * GROUP)
    W[1] *= 100  # another group's scales don't matter
    matrix, rounded = to_nf4([W], W.shape), to_nf4([W], W.shape).rows()
    assert matrix.largest.shape == (3,)
    assert matrix.nbytes * 8 / W.size == pytest.approx(4 + 8 / BLOCK + 32 / (BLOCK * GROUP))
    scales = np.abs(W).reshape(3, GROUP, BLOCK).max(axis=2)
    found = np.abs(rounded).reshape(3, GROUP, BLOCK).max(axis=2)
    assert matrix.mean == pytest.approx(scales.mean(), rel=1e-6)
    farthest = np.abs(scales - scales.mean()).max(axis=1, keepdims=True)
    assert (np.abs(found - scales) <= 0.0071 * farthest).all()  # 0.45 / 64


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 200))
def test_pieces_give_the_same_as_the_whole(pieces, N):
    W = weights(sum(pieces), N)
    for to in (to_nf4, to_bf16):
        whole = to([W], W.shape)
        found = to(iter(np.split(W, np.cumsum(pieces)[:-1])), W.shape)
        np.testing.assert_array_equal(found.rows(), whole.rows())
        np.testing.assert_array_equal(whole.rows(1, 4), whole.rows()[1:4])
        assert whole.rows().dtype == np.float32


def test_zeros_stay_zeros_and_what_is_not_finite_is_refused():
    for to in (to_nf4, to_bf16):
        assert not to([np.zeros((2, 70), np.float32)], (2, 70)).rows().any()
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="NaN or infinity"):
                to([np.array([[1, bad]], np.float32)], (1, 2))


def test_bfloat16_is_rounded_to_the_nearest():
    W = weights(3, 5)
    assert (np.abs(to_bf16([W], W.shape).rows() - W) <= 2.0**-8 * np.abs(W)).all()


@pytest.mark.parametrize("to", [to_nf4, to_bf16])
@pytest.mark.parametrize(("M", "K", "N"), [(5, 130, 200), (70, 900, 770), (4, 770, 1600), (1, 64, 64), (0, 3, 4)])
def test_products(to, M, K, N):
    """Against NumPy's; and to the bit those of ``matmul`` with the same matrix, where that uses the same product."""
    rng = np.random.default_rng(0)
    matrix, bias = to([weights(K, N)], (K, N)), rng.standard_normal(N).astype(np.float32)
    W = matrix.rows()
    for transposed, terms, factor, added in ((False, K, W, bias), (True, N, W.T, None)):
        a = rng.standard_normal((M, terms)).astype(np.float32)
        found = few_bits_matmul_numba(a, matrix, transposed, added)
        plain = few_bits_matmul_numpy(a, matrix, transposed, added)
        magnitude = np.abs(a) @ np.abs(factor) + (0 if added is None else np.abs(added))
        assert (np.abs(found - plain) <= 2 * rounding(np.float32, terms) * magnitude).all()
        if M > 3 and M * K * N > 64**3:
            np.testing.assert_array_equal(found, matmul_numba(a, factor, added))


def test_float64_is_computed_in_float64():
    matrix = to_nf4([weights(6, 70)], (6, 70))
    y = kernels.few_bits_matmul(np.ones((2, 6)), matrix)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y[0], matrix.rows().astype(np.float64).sum(axis=0), rtol=1e-12, atol=1e-15)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba has one thread here (one core, or NUMBA_NUM_THREADS=1)")
    monkeypatch.setattr(jit, "MIN_PARALLEL_SIZE", 0)
    matrix, a, before = to_nf4([weights(130, 450)], (130, 450)), weights(9, 130), numba.get_num_threads()
    try:
        results = [(numba.set_num_threads(n), few_bits_matmul_numba(a, matrix).tobytes())[1] for n in (1, 2)]
    finally:
        numba.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("a", "transposed", "bias"), [((2, 5), False, None), ((2, 4), True, None), ((2, 4), False, (4,))]
)
def test_shapes_that_do_not_fit(a, transposed, bias):
    matrix = to_nf4([weights(4, 5)], (4, 5))
    for product in (few_bits_matmul_numba, few_bits_matmul_numpy):
        with pytest.raises(ValueError, match="few_bits_matmul: the shapes"):
            product(np.ones(a, np.float32), matrix, transposed, None if bias is None else np.ones(bias, np.float32))
