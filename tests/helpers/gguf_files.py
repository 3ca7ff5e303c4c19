"""GGUF files by hand, byte for byte, so that any of it can be wrong; and small models to write."""

import struct

import numpy as np

from npgpt import GPTConfig
from npgpt.checkpoints.gguf.file import read_tensors
from npgpt.checkpoints.gguf.model import NAMES
from npgpt.checkpoints.shared.blocks import BLOCKS, ELEMENTS, quantize
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import to_theirs
from npgpt.gpt import parameter_shapes

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=32, n_inner=64)

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q6_K": 14, "F64": 28, "BF16": 30}


def string(text: str | bytes, length: int | None = None) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data


def key(name: str | bytes, type: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", type) + value


def text(name: str, value: str | bytes) -> bytes:
    return key(name, 8, string(value))


def u32(name: str, value: int) -> bytes:
    return key(name, 4, struct.pack("<I", value))


def f32(name: str, value: float) -> bytes:
    return key(name, 6, struct.pack("<f", value))


def array(type: int, count: int, items: bytes) -> bytes:
    """The value of a key of type 9, or an item of an array of them."""
    return struct.pack("<IQ", type, count) + items


def strings(name: str, values: list[str]) -> bytes:
    return key(name, 9, array(8, len(values), b"".join(map(string, values))))


def info(name: str | bytes, shape=(1,), type: str | int = "F32", offset: int = 0, axes: int | None = None) -> bytes:
    """``shape`` as NumPy has it."""
    number = TYPES.get(type, type)
    axes = len(shape) if axes is None else axes
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", axes, *shape[::-1], number, offset)


def raw(keys=(), infos=(), data: bytes = b"", version=3, n_keys=None, n_tensors=None, alignment=32) -> bytes:
    n_tensors = len(infos) if n_tensors is None else n_tensors
    n_keys = len(keys) if n_keys is None else n_keys
    header = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + b"".join(keys) + b"".join(infos)
    return header + bytes(-len(header) % alignment) + data


def all_types() -> bytes:
    """A file with every type of value and of tensor, aligned to 64."""
    rng = np.random.default_rng(0)
    keys = [
        key(f"number {type}", type, np.array(3).astype(dtype).tobytes())
        for type, dtype in enumerate(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "?", "", "", "u8", "i8", "f8"])
        if dtype
    ]
    keys += [text("é", "日本語"), text("empty", ""), u32("general.alignment", 64), strings("strings", ["a", "", "日"])]
    keys += [key("numbers", 9, array(2, 3, bytes(6))), key("bools", 9, array(7, 2, b"\0\1"))]
    infos, data = [], b""
    for i, type in enumerate(TYPES):
        shape = (2, 256) if i % 2 else (256,)
        infos.append(info(f"tensor {i}", shape, type, len(data)))
        if type in BLOCKS:
            blocks = np.zeros(np.prod(shape) // ELEMENTS[type], BLOCKS[type])
            blocks = rng.integers(0, 256, blocks.nbytes, np.uint8).view(BLOCKS[type])
            for field in {"d", "m"} & set(blocks.dtype.names):
                blocks[field] = rng.standard_normal(len(blocks))
            data += blocks.tobytes()
        elif type == "BF16":
            data += (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            data += rng.standard_normal(shape).astype({"F16": "f2", "F32": "f4", "F64": "f8"}[type]).tobytes()
        data += bytes(-len(data) % 64)
    return raw(keys, infos, data, alignment=64)


def assert_reference_agrees(gguf, path, tensors):
    """What we read is what gguf's reader reads."""
    theirs = gguf.GGUFReader(path).tensors
    assert [tensor.name for tensor in theirs] == list(tensors)
    for tensor in theirs:
        found = tensors[tensor.name]
        assert (found.dtype, found.shape) == (tensor.tensor_type.name, tuple(tensor.shape.tolist()[::-1]))
        numbers = tensor.data
        if tensor.tensor_type.name not in ("F64", "F32", "F16"):
            with np.errstate(all="ignore"):
                numbers = gguf.quants.dequantize(numbers, tensor.tensor_type)
        np.testing.assert_array_equal(found.numpy(), numbers)


def arrays_of(config: GPTConfig, seed=0) -> dict[str, np.ndarray]:
    """Random weights, biases and layer norms too."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in parameter_shapes(config).items()}


def checkpoint_of(config: GPTConfig, **fields) -> Checkpoint:
    tensors = {name: lazy_array(array) for name, array in arrays_of(config).items()}
    return Checkpoint("arrays", config, tensors, "memory", **fields)


def keys_of(config: GPTConfig) -> dict[str, bytes]:
    numbers = {
        "gpt2.context_length": config.block_size,
        "gpt2.embedding_length": config.n_embd,
        "gpt2.block_count": config.n_layer,
        "gpt2.feed_forward_length": config.inner_size,
        "gpt2.attention.head_count": config.n_head,
    }
    epsilon = "gpt2.attention.layer_norm_epsilon"
    return {
        "general.architecture": text("general.architecture", "gpt2"),
        **{name: u32(name, number) for name, number in numbers.items()},
        epsilon: f32(epsilon, config.layer_norm_epsilon),
    }


def file_of(keys: dict | None = None, tensors: dict | None = None, config: GPTConfig = CONFIG) -> bytes:
    """A model's file, in which keys are replaced or added, or left out if they are None, and tensors likewise.

    A tensor is an array, or one with the type of blocks that it is stored in.
    """
    arrays = {name: lazy_array(array) for name, array in arrays_of(config).items()}
    arrays = {name: tensor.numpy() for name, tensor in to_theirs(NAMES, arrays).items()} | (tensors or {})
    infos, data = [], b""
    for name, array in arrays.items():
        if array is not None:
            array, type = array if isinstance(array, tuple) else (array, array.dtype.name.replace("float", "F"))
            infos.append(info(name, array.shape, type, len(data)))
            data += (quantize(array, type) if type in BLOCKS else array).tobytes()
            data += bytes(-len(data) % 32)
    return raw([k for k in {**keys_of(config), **(keys or {})}.values() if k is not None], infos, data)


def open_gguf(path):
    """-> tensors, metadata, the mapped file."""
    file = MappedFile(path)
    return *read_tensors(file), file
