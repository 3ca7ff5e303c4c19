"""llm.c's models: the layout, what it can't hold, and damaged files."""

import re

import numpy as np
import pytest
from helpers import mutations

from npgpt import GPT, GPTConfig, no_grad
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.llmc import read
from npgpt.checkpoints.llmc import write as write_llmc
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes
from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16

CONFIG = GPTConfig(vocab_size=131, block_size=6, n_layer=3, n_head=2, n_embd=4)
T, V, L, H, C, ROWS = 6, 131, 3, 2, 4, 256

# The order and the shapes of the file, as llm.c's ParameterTensors have them.
LAYOUT = {
    "wte.weight": (ROWS, C),
    "wpe.weight": (T, C),
    "h.{}.ln_1.weight": (L, C),
    "h.{}.ln_1.bias": (L, C),
    "h.{}.attn.c_attn.weight": (L, 3 * C, C),
    "h.{}.attn.c_attn.bias": (L, 3 * C),
    "h.{}.attn.c_proj.weight": (L, C, C),
    "h.{}.attn.c_proj.bias": (L, C),
    "h.{}.ln_2.weight": (L, C),
    "h.{}.ln_2.bias": (L, C),
    "h.{}.mlp.c_fc.weight": (L, 4 * C, C),
    "h.{}.mlp.c_fc.bias": (L, 4 * C),
    "h.{}.mlp.c_proj.weight": (L, C, 4 * C),
    "h.{}.mlp.c_proj.bias": (L, C),
    "ln_f.weight": (C,),
    "ln_f.bias": (C,),
}


def header(version=3, **changes) -> bytes:
    """``changes``: {"T": 7, ...}; {"n8": 1} is the number after the padded V."""
    values = {"magic": 20240326, "version": version, "T": T, "V": V, "L": L, "H": H, "C": C, "Vp": ROWS}
    numbers = [*values.values(), *[0] * 248]
    for name, value in changes.items():
        numbers[list(values).index(name) if name in values else int(name[1:])] = value
    return np.array(numbers, np.int64).astype("<i4").tobytes()


def by_hand(version=3) -> tuple[bytes, dict[str, np.ndarray]]:
    """A file, and the parameters that are in it under our names."""
    rng = np.random.default_rng(0)
    data, parameters = header(version), {}
    for name, shape in LAYOUT.items():
        numbers = rng.standard_normal(shape, np.float32)
        bits = f32_to_bf16(numbers)
        data += (numbers if version == 3 else bits).tobytes()
        numbers = numbers if version == 3 else bf16_to_f32(bits)
        for layer, own in enumerate(numbers) if "{}" in name else [(0, numbers[:V] if name[:3] == "wte" else numbers)]:
            turned = own.ndim == 2 and "{}" in name
            parameters[name.format(layer)] = own.T if turned else own
    return data, parameters


def checkpoint(config=CONFIG, dtype=np.float32) -> Checkpoint:
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in parameter_shapes(config).items()}
    return Checkpoint("test", config, {name: lazy_array(array) for name, array in arrays.items()}, "here")


@pytest.mark.parametrize(("version", "dtype"), [(3, "F32"), (5, "BF16")])
def test_a_file_by_hand(tmp_path, version, dtype):
    path = tmp_path / "model.bin"
    data, parameters = by_hand(version)
    path.write_bytes(data)
    found = open_checkpoint(path)
    assert found.config == CONFIG
    assert found.format == {3: "llm.c (float32)", 5: "llm.c (bfloat16)"}[version]
    assert found.tensors.keys() == parameters.keys() == parameter_shapes(CONFIG).keys()
    for name, tensor in found.tensors.items():
        assert tensor.dtype == dtype
        np.testing.assert_array_equal(tensor.numpy(), parameters[name], name)
    model = load(path)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, parameters[name], name)

    write_llmc(tmp_path / "again.bin", found, dtype)
    again = (tmp_path / "again.bin").read_bytes()
    padding = slice(1024 + V * C * (4 if version == 3 else 2), 1024 + ROWS * C * (4 if version == 3 else 2))
    assert again[: padding.start] + again[padding.stop :] == data[: padding.start] + data[padding.stop :]
    assert not any(again[padding])


@pytest.mark.parametrize("vocab_size", [1, 128, 129])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_written_and_read(tmp_path, vocab_size, dtype):
    config = GPTConfig(**{**CONFIG.to_dict(), "vocab_size": vocab_size})
    given = checkpoint(config)
    write_llmc(tmp_path / "a", given, dtype)
    rows = int(np.frombuffer((tmp_path / "a").read_bytes(), "<i4", 8)[7])
    assert rows == {1: 128, 128: 128, 129: 256}[vocab_size]
    found = open_checkpoint(tmp_path / "a")
    assert found.config == config
    for name, tensor in found.tensors.items():
        expected = given.tensors[name].numpy()
        expected = bf16_to_f32(f32_to_bf16(expected)) if dtype == "BF16" else expected
        np.testing.assert_array_equal(tensor.numpy(), expected, name)


@pytest.mark.parametrize("settings", [{"bias": False}, {"qkv_bias": False}, {"bias": False, "qkv_bias": True}])
def test_absent_biases_are_zeros_and_the_function_is_the_same(tmp_path, settings):
    given = checkpoint(GPTConfig(**{**CONFIG.to_dict(), **settings}))
    write_llmc(tmp_path / "a", given)
    model = GPT.empty(given.config)
    model.load_state_dict({name: tensor.numpy() for name, tensor in given.tensors.items()})
    found = load(tmp_path / "a")
    absent = parameter_shapes(CONFIG).keys() - given.tensors.keys()
    assert absent
    for name, array in found.state_dict().items():
        assert (not array.any()) == (name in absent), name
    ids = np.arange(10).reshape(2, 5)
    with no_grad():
        np.testing.assert_allclose(found(ids).data, model(ids).data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"position": "rotary"}, "position = learned only, and this model has rotary"),
        ({"activation": "gelu"}, "activation = gelu_new only, and this model has gelu"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-05 only, and this model has 1e-06"),
        ({"tie_weights": False}, "tie_weights = True only, and this model has False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = False only"),
        ({"n_inner": 15}, "inner_size = 16 only, and this model has 15"),
    ],
)
def test_what_llmc_does_not_compute(tmp_path, settings, message):
    given = checkpoint(GPTConfig(**{**CONFIG.to_dict(), **settings}))
    with pytest.raises(CheckpointError, match=message) as caught:
        write_llmc(tmp_path / "a", given)
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: ")
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_written(tmp_path):
    with pytest.raises(CheckpointError, match="none/a: can't be written: No such file"):
        write_llmc(tmp_path / "none" / "a", checkpoint())
    assert list(tmp_path.iterdir()) == []
    write_llmc(tmp_path / "a", checkpoint(GPTConfig(**{**CONFIG.to_dict(), "n_inner": 4 * C})))  # the same as None


# Damaged files

GOOD, _ = by_hand()
BODY = GOOD[1024:]


def changed(**changes) -> bytes:
    return header(**changes) + BODY


BAD = {
    "empty": (b"", "header: bytes 0 to 1,024 of a file of 0"),
    "half a header": (GOOD[:512], "header: bytes 0 to 1,024 of a file of 512"),
    "a byte is missing in the header": (GOOD[:28] + GOOD[29:], "header: 131 tokens, and 1 rows"),
    "cut by a byte": (GOOD[:-1], "bytes, and its header describes .* cut off"),
    "a number too many": (GOOD + bytes(4), "bytes, and its header describes .* longer than that"),
    "float32 called bfloat16": (changed(version=5), "bytes, and its header describes .* longer than that"),
    "version 4": (changed(version=4), r"header: version 4 is not 3 \(float32\) or 5"),
    "version big-endian": (changed(version=3 << 24), "header: version 50331648 is not 3"),
    "no context": (changed(T=0), "header: block_size must be a whole number .* not 0"),
    "a negative width": (changed(C=-(2**31)), "header: n_embd must be a whole number .* not -2147483648"),
    "a giant width": (changed(C=2**31 - 2), "too large for any memory"),
    "a giant of layers": (changed(L=2**31 - 1), "header: 2,147,483,647 layers; 1,000 are the most"),
    "heads that don't divide": (
        changed(H=3),
        "header: n_embd must be divisible by n_head: 4",
    ),
    "too few rows": (changed(Vp=130), "header: 131 tokens, and 130 rows"),
    "negative rows": (changed(Vp=-(2**31)), "header: 131 tokens, and -2,147,483,648 rows"),
    "giant rows": (changed(Vp=2**31 - 1), "cut off"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    content, place = BAD[case]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with mutations.memory_at_most(len(content)), pytest.raises(CheckpointError) as caught:
        read(MappedFile(path))
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith(f"{path}: ")
    assert len(message) < 300 + len(str(path))
    assert "\n" not in message
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: "):
        load(path)


def test_many_layers_take_little_memory(tmp_path):
    config = GPTConfig(vocab_size=1, block_size=1, n_layer=1000, n_head=1, n_embd=1)
    write_llmc(tmp_path / "a", checkpoint(config))
    with mutations.memory_at_most((tmp_path / "a").stat().st_size):
        assert len(open_checkpoint(tmp_path / "a").tensors) == 12_004


def test_mutations_load_or_are_refused(tmp_path):
    """What loads has the size that its header says, and the numbers that are there."""
    path = tmp_path / "a"
    loaded = 0
    for seed in range(mutations.COUNT):
        data = mutations.mutated(GOOD, seed, range(40))
        path.write_bytes(data)
        with mutations.memory_at_most(len(data)):
            try:
                found = open_checkpoint(path)
                elements = sum(tensor.numpy().size for tensor in found.tensors.values())
            except CheckpointError as error:
                message = str(error)
                assert message.startswith(f"{path}: "), seed
                continue
        loaded += 1
        magic, version, *sizes = np.frombuffer(data, "<i4", 8).tolist()
        config = found.config
        assert (magic, version in (3, 5)) == (20240326, True)
        assert sizes[:5] == [config.block_size, config.vocab_size, config.n_layer, config.n_head, config.n_embd]
        assert elements <= len(data) / 2
    assert 0 < loaded < mutations.COUNT * 0.7
