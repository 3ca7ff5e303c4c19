"""Blocks against their definition, and to the bit against gguf-py, whose results are llama.cpp's."""

import warnings

import numpy as np
import pytest

from npgpt.checkpoints.shared.blocks import BLOCKS, ELEMENTS, dequantize, quantize

WRITTEN = ("Q8_0", "Q4_0", "Q6_K")


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


@pytest.mark.parametrize(
    ("dtype", "m", "high", "expected"),
    [
        ("Q4_1", [10], [], lambda q: 2 * (q % 16) + 10),
        ("Q5_0", [], [0, 0, 255, 255], lambda q: 2 * (q - 16)),
        ("Q5_1", [10], [0, 0, 255, 255], lambda q: 2 * q + 10),
    ],
)
def test_other_types_of_32_by_hand(dtype, m, high, expected):
    """q = j: its lower four bits are those of j - 16 too, and 16 to 31 have the fifth."""
    packed = bytes(17 * i for i in range(16))
    block = np.float16([2, *m]).tobytes() + bytes(high) + packed
    np.testing.assert_array_equal(dequantize(np.frombuffer(block, BLOCKS[dtype]), dtype), expected(np.arange(32)))


def test_the_fifth_bits_are_in_the_order_of_the_elements():
    block = np.float16(1).tobytes() + bytes([0b10, 0, 0b1000_0000, 0]) + bytes(16)
    found = dequantize(np.frombuffer(block, BLOCKS["Q5_0"]), "Q5_0")
    assert np.flatnonzero(found == 0).tolist() == [1, 23]


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
@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0"])
def test_quantized_to_the_bit(reference, dtype):
    x = awkward_numbers()
    expected = reference.quants.quantize(x, reference.GGMLQuantizationType[dtype]).reshape(60, 20, -1)
    found = quantize(x, dtype)
    assert found.shape == (60, 20)
    same = found.view(np.uint8).reshape(expected.shape) == expected
    if dtype == "Q4_0":  # what gguf-py makes of 0 * infinity is chance; d is 0
        assert same[2, :, :2].all()
        same[2] = True
    assert same.all()


@pytest.mark.parametrize("dtype", WRITTEN)
def test_nothing_that_has_no_result_is_computed(dtype):
    """0 / 0 or infinity, made into a whole number, is another one on another machine; NumPy warns of it."""
    x = awkward_numbers()[:, :512]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dequantize(quantize(x, dtype), dtype)
    assert not found[:3].any()
    largest = np.abs(x).reshape(60, -1, 32 if dtype != "Q6_K" else 256).max(axis=-1)
    error = np.abs(found - x).reshape(60, largest.shape[1], -1).max(axis=-1)
    # half a step, or a whole one where the largest q is missing; and float16's rounding of d, also where d is subnormal
    share, whole_number = {"Q8_0": (1 / 254, 127), "Q4_0": (1 / 8, 8), "Q6_K": (1 / 20, 128 * 32)}[dtype]
    assert (error <= (share + 2**-10) * largest + whole_number * 2.0**-25).all()


@pytest.mark.parametrize("dtype", WRITTEN)
def test_numbers_from_blocks_are_quantized_to_themselves(dtype):
    """Where the largest number has the largest q, as in every block that ``quantize`` makes."""
    blocks = random_blocks(dtype, (20, 2))
    blocks["d"] = np.random.default_rng(1).choice([-1, 1], (20, 2)) * 2.0 ** np.arange(-10, 10)[:, None]
    if dtype == "Q8_0":
        blocks["q"][..., 3], blocks["d"] = 127, np.abs(blocks["d"])
        blocks["q"] = np.maximum(blocks["q"], -127)
    elif dtype == "Q4_0":
        blocks["q"][..., 3] &= 0xF0
    else:  # element 0 of each 16, which lie in the low or the high half of a byte
        blocks["low"][..., ::16], blocks["high"][..., ::16], blocks["scale"][..., 5] = 0, 0, -128
    x = dequantize(blocks, dtype)
    np.testing.assert_array_equal(dequantize(quantize(x, dtype), dtype), x)


def test_q8_0s_ties_go_away_from_zero():
    x = np.zeros(32, np.float32)
    x[:7] = 127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5
    assert quantize(x, "Q8_0")["q"][0, :7].tolist() == [127, 1, 2, 3, -1, -2, -3]


def test_q4_0_gives_the_largest_number_minus_8():
    """A number as large with the other sign gets 7: there is no 8."""
    x = np.zeros(32, np.float32)
    x[[1, 2, 20]] = 4, -4, 1.2
    block = quantize(x, "Q4_0")[0]
    assert block["d"] == -0.5
    assert dequantize(block[None], "Q4_0")[[1, 2, 20, 0]].tolist() == [4, -3.5, 1, 0]


def test_q6_ks_scales_are_the_best_of_several():
    """By brute force in float64: for each 16 numbers, of all 19 q the one that minimises the weighted error."""
    x = np.random.default_rng(0).standard_normal((40, 16, 16)).astype(np.float32)
    x[:, 3] /= 10  # each block has a group of small numbers
    scales = np.zeros((40, 16))
    for place in np.ndindex(40, 16):
        group, least = x[place].astype(float), np.inf
        for change in range(-9, 10):
            q = np.clip(np.rint(-(32 + 0.1 * change) / group[np.abs(group).argmax()] * group), -32, 31)
            scale = (group**3 @ q) / (group**2 @ q**2)
            error = group**2 @ (group - scale * q) ** 2
            if error < least:
                scales[place], least = scale, error
    largest = scales[np.arange(40), np.abs(scales).argmax(axis=-1)]
    blocks = quantize(x.reshape(40, 256), "Q6_K")[:, 0]
    np.testing.assert_array_equal(blocks["d"], (largest / -128).astype(np.float16))
    expected = np.minimum(np.rint(scales * (-128 / largest[:, None])), 127)
    assert (blocks["scale"] == expected).mean() > 0.99  # a few have two scales that are as good in float32
    step = blocks["d"].astype(float)[:, None, None] * blocks["scale"][..., None]
    found = dequantize(blocks, "Q6_K").reshape(x.shape)
    np.testing.assert_allclose(found, np.clip(np.rint(x / step), -32, 31) * step, rtol=1e-6)


@pytest.mark.parametrize("number", [np.nan, -np.inf, 1e10, -1e13, 3e38])
@pytest.mark.parametrize("dtype", WRITTEN)
def test_what_has_no_scale(number, dtype):
    x = np.ones((2, 512), np.float32)
    x[1, 40] = number
    words = f"a number too large for {dtype}" if np.isfinite(number) else "NaN or infinity"
    with pytest.raises(ValueError, match=words):
        quantize(x, dtype)


def test_other_types_are_not_written():
    with pytest.raises(ValueError, match="Q5_0 is not written"):
        quantize(np.ones(32), "Q5_0")
