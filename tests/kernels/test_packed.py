"""Packed weights: what each format holds, and products with them."""

import numba
import numpy as np
import pytest
from helpers.tolerances import rounding
from hypothesis import given
from hypothesis import strategies as st

from npgpt import config
from npgpt.checkpoints.shared.blocks import dequantize
from npgpt.checkpoints.shared.blocks import quantize as quantize_blocks
from npgpt.kernels import packed, packed_product
from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16
from npgpt.kernels.machine.cpu import HAS_INT8_DOT
from npgpt.kernels.machine.product import K_BLOCK
from npgpt.kernels.matmul import matmul_numba
from npgpt.kernels.packed import BLOCK, FORMATS, PANEL, pack, unpack
from npgpt.kernels.packed_product import packed_matmul_numba, packed_matmul_numpy

each_format = pytest.mark.parametrize("format", FORMATS)
SHAPES = [(1, 1), (31, 5), (32, PANEL), (33, PANEL + 1), (96, 3 * PANEL), (70, 50)]


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


@each_format
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_packed_comes_out_as_the_format_holds_it(format, shape):
    W = normal(*shape)
    held = unpack(pack(W, format))
    if format == "f32":
        np.testing.assert_array_equal(held, W)
    elif format == "bf16":
        np.testing.assert_array_equal(held, bf16_to_f32(f32_to_bf16(W)))
    else:  # along a column, in blocks of 32, padded with zeros
        rows = np.zeros((shape[1], -(-shape[0] // BLOCK) * BLOCK), np.float32)
        rows[:, : shape[0]] = W.T
        largest = np.take_along_axis(blocks := rows.reshape(len(rows), -1, BLOCK), abs(blocks).argmax(2)[..., None], 2)
        steps = (largest / np.float32(127 if format == "int8" else -8)).astype(np.float16).astype(np.float32)
        bound = abs(steps) * (0.5 if format == "int8" else 1) + abs(largest) * 2**-11
        assert (abs(held.T - W.T) <= np.repeat(bound, BLOCK, axis=2).reshape(len(rows), -1)[:, : shape[0]]).all()
    np.testing.assert_array_equal(unpack(pack(np.asfortranarray(W), format)), held)
    np.testing.assert_array_equal(unpack(pack(held, format)), held, err_msg="packing twice changes something")


@pytest.mark.parametrize(("format", "dtype"), [("int8", "Q8_0"), ("int4", "Q4_0")])
def test_integers_are_blocks_of_ggml(format, dtype):
    W = normal(96, 40)
    blocks = quantize_blocks(np.ascontiguousarray(W.T), dtype)
    np.testing.assert_array_equal(unpack(pack(W, format)), dequantize(blocks, dtype).T)


@each_format
def test_zeros_stay_zeros(format):
    W = normal(64, 10)
    W[:32], W[:, 3] = 0, 0
    held = unpack(pack(W, format))
    assert not held[:32].any()
    assert not held[:, 3].any()


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_number_that_no_scale_can_hold_is_refused(format, value):
    W = normal(64, 10)
    W[40, 7] = value
    with pytest.raises(ValueError, match="NaN, infinity, or a number too large"):
        pack(W, format)


def test_commands_offer_the_formats():
    assert config.WEIGHTS == FORMATS


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="f32, bf16, int8, int4, not 'int2'"):
        pack(normal(2, 2), "int2")
    with pytest.raises(ValueError, match="only matrices of float32"):
        pack(np.zeros((2, 2)), "f32")
    matrix = pack(normal(8, 4), "f32")
    with pytest.raises(ValueError, match=r"x must be float32 \(M, 8\)"):
        packed_matmul_numba(normal(2, 7), matrix)
    with pytest.raises(ValueError, match=r"the bias must be float32 \(4,\)"):
        packed_matmul_numba(normal(2, 8), matrix, normal(5))


@each_format
@given(
    M=st.integers(1, 20), K=st.integers(1, 100), N=st.integers(1, 100), has_bias=st.booleans(), seed=st.integers(0, 99)
)
def test_the_compiled_product_is_the_plain_one(format, M, K, N, has_bias, seed):
    x, matrix, bias = normal(M, K, seed=seed), pack(normal(K, N, seed=seed), format), normal(N) if has_bias else None
    expected, found = packed_matmul_numpy(x, matrix, bias), packed_matmul_numba(x, matrix, bias)
    magnitude = abs(x) @ abs(unpack(matrix)) + (0 if bias is None else abs(bias))
    assert (abs(found - expected) <= rounding(np.float32, K) * magnitude).all()


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("x", [1e-37, 1e-30, 1e30, 0.0])
def test_tiny_and_huge_rows(format, x):
    row = np.zeros((1, 64), np.float32)
    row[0, 3], row[0, 40] = x, -x
    matrix = pack(normal(64, 5), format)
    expected = packed_matmul_numpy(row, matrix)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(packed_matmul_numba(row, matrix), expected, rtol=1e-5, atol=1e-45)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_an_outlier_whose_weights_are_zero_costs_no_digits(format):
    x, W = normal(1, 64), normal(64, 5)
    x[0, 7], W[7] = 3000, 0
    matrix = pack(W, format)
    found, expected = packed_matmul_numba(x, matrix), packed_matmul_numpy(x, matrix)
    others = np.delete(packed_product._rounded_to_int8(x) if HAS_INT8_DOT else x, 7, axis=1)
    allowed = rounding(np.float32, 64) * (abs(others) @ abs(np.delete(unpack(matrix), 7, axis=0)))
    assert (abs(found - expected) <= allowed).all()


@each_format
def test_a_row_has_the_same_bits_alone_and_beside_others_on_any_number_of_threads(format):
    x, matrix, bias = normal(30, 100), pack(normal(100, 5 * PANEL + 3), format), normal(5 * PANEL + 3)
    whole = packed_matmul_numba(x, matrix, bias)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(packed_matmul_numba(x[:17], matrix, bias), whole[:17])
        for i in range(3):
            np.testing.assert_array_equal(packed_matmul_numba(x[i : i + 1], matrix, bias), whole[i : i + 1])
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("format", ["f32", "bf16"])
def test_a_row_has_the_bits_that_it_has_in_a_large_product(format):
    """Of many rows, by the kernel of training: sums of more than one of its blocks."""
    x, W, bias = normal(60, 2 * K_BLOCK + 33), normal(2 * K_BLOCK + 33, 40), normal(40)
    matrix = pack(W, format)
    whole = matmul_numba(x, np.ascontiguousarray(unpack(matrix)), bias)
    for rows in (slice(0, 1), slice(3, 20)):
        np.testing.assert_array_equal(packed_matmul_numba(x[rows], matrix, bias), whole[rows])


@each_format
def test_nothing_beyond_the_last_column_is_written(format):
    """The product's memory is a part of a larger array."""
    x, matrix = normal(3, 40), pack(normal(40, PANEL + 5), format)
    y = np.full((5, PANEL + 5), 7, np.float32)
    packed_product._multiply(x, *matrix.addresses(), 0, y[1:4], 1, matrix.tag)
    np.testing.assert_array_equal(y[1:4], packed_matmul_numba(x, matrix))
    assert (y[[0, 4]] == 7).all()


@each_format
def test_nan_and_infinity_come_out(format):
    x, matrix = normal(3, 40), pack(normal(40, 10), format)
    for M, value in ((1, np.nan), (3, np.nan), (1, np.inf), (3, -np.inf)):
        x[0, 7] = value
        y = packed_matmul_numba(x[:M], matrix)
        assert not np.isfinite(y[0]).any()
        assert np.isfinite(y[1:]).all()


def test_columns_are_those_of_the_unpacked_matrix():
    W = normal(70, 3 * PANEL - 1)
    for format in FORMATS:
        matrix = pack(W, format)
        ids = np.array([0, PANEL, 3 * PANEL - 2, 5, 5])
        np.testing.assert_array_equal(packed.columns(matrix, ids), unpack(matrix)[:, ids].T)


@pytest.mark.parametrize(("format", "bits"), [("f32", 32), ("bf16", 16), ("int8", 8.5), ("int4", 4.5)])
def test_bits_of_a_weight(format, bits):
    assert pack(normal(64, 2 * PANEL), format).nbytes * 8 == bits * 64 * 2 * PANEL
