"""Every bfloat16 comes back, and float32 is rounded to the nearest."""

import numpy as np
import pytest

from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16


def test_bfloat16_of_every_pattern_comes_back():
    bits = np.arange(2**16, dtype=np.uint16)
    back = f32_to_bf16(bf16_to_f32(bits))
    nan = np.isnan(bf16_to_f32(bits))
    np.testing.assert_array_equal(back[~nan], bits[~nan])
    assert np.isnan(bf16_to_f32(back[nan])).all()


def test_f32_to_bf16_rounds_as_torch_does():
    torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    theirs = torch.from_numpy(numbers.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    numbers_only = ~np.isnan(numbers)
    np.testing.assert_array_equal(f32_to_bf16(numbers)[numbers_only], theirs[numbers_only])
