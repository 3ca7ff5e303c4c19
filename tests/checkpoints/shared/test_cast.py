"""What is written: rounded as asked, no number lost to infinity, absent biases as zeros, in little memory."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgpt.checkpoints.shared.cast import rounded, with_all_biases
from npgpt.checkpoints.shared.checkpoint import RELEASE_EVERY, Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, lazy_array
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes
from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8)


def checkpoint(**arrays) -> Checkpoint:
    return Checkpoint("test", CONFIG, {name: lazy_array(a) for name, a in arrays.items()}, Path("memory"))


@pytest.mark.parametrize("of", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_rounding(of, transposed):
    numbers = np.random.default_rng(0).standard_normal((300, 7)).astype(of)
    tensors = checkpoint(a=numbers)
    if transposed:
        tensors.tensors["a"] = tensors.tensors["a"].T
    expected = numbers.T if transposed else numbers
    for dtype, as_written in [
        ("F32", expected.astype(np.float32)),
        ("F16", expected.astype(np.float16)),
        ("BF16", bf16_to_f32(f32_to_bf16(expected)).reshape(expected.shape)),
    ]:
        found = rounded(tensors, dtype, "out")["a"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.numpy(), as_written)
        assert found.numpy().dtype == as_written.dtype


@pytest.mark.parametrize(
    ("number", "dtype"), [(65520.0, "F16"), (-1e5, "F16"), (1e39, "F32"), (-1e300, "BF16"), (3.4e38, "BF16")]
)
def test_a_number_too_large_is_an_error_not_infinity(number, dtype):
    numbers = np.array([[1.0, np.inf], [np.nan, number]])
    tensor = rounded(checkpoint(**{"h.0.mlp.c_fc.weight": numbers}), dtype, "out")["h.0.mlp.c_fc.weight"]
    with pytest.raises(
        CheckpointError, match=rf"^out: tensor h\.0\.mlp\.c_fc\.weight: -?\S+ is too large for {dtype}$"
    ):
        tensor.numpy()
    numbers[1, 1] = 65504  # NaN and infinities stay
    found = rounded(checkpoint(a=numbers), dtype, "out")["a"].numpy()
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(numbers))


@pytest.mark.parametrize(("bias", "qkv_bias"), [(True, None), (True, False), (False, None), (False, True)])
def test_absent_biases_are_zeros(bias, qkv_bias):
    config = replace(CONFIG, bias=bias, qkv_bias=qkv_bias, tie_weights=False)
    tensors = {name: lazy_array(np.ones(shape, np.float16)) for name, shape in parameter_shapes(config).items()}
    full, found = with_all_biases(config, dict(reversed(tensors.items())))
    assert full == replace(config, bias=True, qkv_bias=None)
    assert [*found] == [*parameter_shapes(full)]
    for name, shape in parameter_shapes(full).items():
        np.testing.assert_array_equal(found[name].numpy(), np.full(shape, name in tensors, np.float32))


def test_pages_are_released_while_tensors_are_written(monkeypatch):
    forgotten = []
    monkeypatch.setattr(Checkpoint, "release_pages", lambda self: forgotten.append(1))
    rows = 4 * RELEASE_EVERY // 4096
    tensor = LazyTensor((rows, 1024), "F32", lambda first, last: np.zeros((last - first, 1024), np.float32))
    source = Checkpoint("test", CONFIG, {"a": tensor}, Path("memory"))
    tracemalloc.start()
    try:
        for piece in rounded(source, "BF16", "out")["a"].iter_flat():
            assert not piece.any()
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # of 64 MB of numbers
    finally:
        tracemalloc.stop()
    assert len(forgotten) == 3
