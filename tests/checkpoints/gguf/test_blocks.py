"""Blocks against their definition, and to the bit against gguf-py, whose results are llama.cpp's."""

import warnings

import numpy as np
import pytest

from npgpt.checkpoints.gguf.blocks import BLOCKS, ELEMENTS, dequantize, quantize


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("gguf", reason="compares with the gguf package, which is not installed")


def random_blocks(dtype: str, shape, seed=0) -> np.ndarray:
    """Blocks of random bits: scales are negative, subnormal, infinite and NaN, too."""
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, BLOCKS[dtype].itemsize), np.uint8)
    return bits.view(BLOCKS[dtype])[..., 0]


def awkward_numbers() -> np.ndarray:
    """(60, 640) of all magnitudes, with ties, zeros, and blocks that become subnormal or 0."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((60, 640)) * 10.0 ** rng.uniform(-30, 3, (60, 640))).astype(np.float32)
    x[0] = 0
    x[1] = -0.0
    x[2] = 1e-40  # subnormal in float32: 1 / d is infinite
    x[3] = -1e-7  # d is subnormal in float16
    x[4] = np.arange(640) % 32 * 8.5 - 127  # with a d of 1 every other number lies between two
    x[4, ::32] = 127
    x[5] = np.float32(0.49999997)  # adding 0.5 before it is cut would give 1
    x[5, ::32] = 127
    return x


def test_q8_0_by_hand():
    block = np.float16(0.5).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
    found = dequantize(np.frombuffer(block, BLOCKS["Q8_0"]), "Q8_0")
    np.testing.assert_array_equal(found, np.arange(-8, 8, 0.5, dtype=np.float32))
    assert found.dtype == np.float32


def test_q4_0_by_hand():
    q = np.arange(32) % 16
    packed = bytes(int(low) | int(high) << 4 for low, high in zip(q[:16], q[16:], strict=True))
    found = dequantize(np.frombuffer(np.float16(2).tobytes() + packed, BLOCKS["Q4_0"]), "Q4_0")
    np.testing.assert_array_equal(found, 2 * (q - 8))


def test_q6_k_by_hand():
    rng = np.random.default_rng(0)
    q, scale = rng.integers(0, 64, 256), rng.integers(-128, 128, 16)
    low, high = bytearray(128), bytearray(64)
    for j in range(256):
        half, i = divmod(j, 128)
        low[64 * half + i % 64] |= (q[j] & 15) << (4 * (i // 64))
        high[32 * half + i % 32] |= (q[j] >> 4) << (2 * (i // 32))
    block = bytes(low) + bytes(high) + scale.astype(np.int8).tobytes() + np.float16(0.25).tobytes()
    found = dequantize(np.frombuffer(block, BLOCKS["Q6_K"]), "Q6_K")
    np.testing.assert_array_equal(found, 0.25 * np.repeat(scale, 16) * (q - 32))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:gguf")
@pytest.mark.parametrize("dtype", BLOCKS)
def test_dequantized_to_the_bit(reference, dtype):
    blocks = random_blocks(dtype, (300, 3))
    expected = reference.quants.dequantize(blocks.view(np.uint8), reference.GGMLQuantizationType[dtype])
    found = dequantize(blocks, dtype)
    assert found.shape == expected.shape == (300, 3 * ELEMENTS[dtype])
    np.testing.assert_array_equal(found, expected)
    finite = np.isfinite(found)
    assert found[finite].tobytes() == expected[finite].tobytes()
    assert 0.5 < finite.mean() < 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning:gguf")
def test_quantized_to_the_bit(reference):
    x = awkward_numbers()
    expected = reference.quants.quantize(x, reference.GGMLQuantizationType.Q8_0)
    found = quantize(x)
    assert found.shape == (60, 20)
    assert found.view(np.uint8).tobytes() == expected.tobytes()


def test_nothing_that_has_no_result_is_computed():
    """0 / 0 or infinity, made into a whole number, is another one on another machine; NumPy warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blocks = quantize(awkward_numbers())
        dequantize(blocks, "Q8_0")
    assert not blocks["q"][:3].any()


def test_ties_go_away_from_zero():
    x = np.zeros(32, np.float32)
    x[:7] = 127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5
    assert quantize(x)["q"][0, :7].tolist() == [127, 1, 2, 3, -1, -2, -3]


@pytest.mark.parametrize("number", [np.nan, -np.inf, 1e7])
def test_what_has_no_scale(number):
    x = np.ones((2, 64), np.float32)
    x[1, 40] = number
    with pytest.raises(ValueError, match="NaN, infinity, or a number too large for Q8_0"):
        quantize(x)
