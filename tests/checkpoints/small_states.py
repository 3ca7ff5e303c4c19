"""Arrays of a small model, as files of a run hold them, and damage to such files."""

import numpy as np

from npgpt.config import GPTConfig

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=1, n_head=2, n_embd=8, n_inner=24, tie_weights=False)


def arrays_of(checkpoint):
    return {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}


def arrays(seed: int, dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"wte.weight": rng.standard_normal((11, 8)).astype(dtype), "ln_f.bias": rng.standard_normal(8).astype(dtype)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def flip(path, place):
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
