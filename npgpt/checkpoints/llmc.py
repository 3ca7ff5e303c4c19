"""llm.c's models, model.bin: read, and written as its own programs write them.

    256 x i32   header: magic number, version (3: float32, 5: bfloat16), T, V, L, H, C, padded V, zeros
    16 blocks   each tensor with all its layers, one after the other; nothing between them

Nothing has a name: the order, which is our model's, says what is what. llm.c computes the released GPT-2 and nothing
else, so neither the activation nor the epsilon is in the header. The token embedding has more rows than there are
tokens, so that their number divides well; what is in them doesn't matter, and they are dropped.

Source: github.com/karpathy/llm.c, train_gpt2.py (write_model) and train_gpt2.cu (gpt2_write_to_checkpoint).
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from npgpt.checkpoints.formats import LLMC_MAGIC
from npgpt.checkpoints.shared.atomic import checkpoint_file
from npgpt.checkpoints.shared.cast import rounded, with_all_biases
from npgpt.checkpoints.shared.checkpoint import Checkpoint, config_of
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.checkpoints.shared.mmap_file import Cursor, MappedFile
from npgpt.checkpoints.shared.names import GPT2_NAMES
from npgpt.checkpoints.shared.tokenizers import beside, by_size
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes
from npgpt.kernels.bfloat16 import f32_to_bf16

PADDED_TO = 128  # rows of the token embedding, when we write
MAX_LAYERS = 1000  # a tensor takes some memory, however small it is in the file

_HEADER = 256  # whole numbers
_VERSIONS: dict[int, tuple[str, np.dtype]] = {3: ("F32", np.dtype("<f4")), 5: ("BF16", np.dtype("<u2"))}
_WORDS = {"F32": "float32", "BF16": "bfloat16"}
# What its programs compute with, whatever the header says.
_FIXED = {
    "position": "learned",
    "activation": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


def read(file: MappedFile) -> Checkpoint:
    """Open a model of llm.c. Raises CheckpointError."""
    path = file.path
    _, version, T, V, L, H, C, rows, *_ = file.array(0, "<i4", _HEADER, "header").tolist()
    if version not in _VERSIONS:
        raise CheckpointError(f"{path}: header: version {version} is not 3 (float32) or 5 (bfloat16)")
    sizes = {"vocab_size": V, "block_size": T, "n_layer": L, "n_head": H, "n_embd": C}
    config = config_of(sizes, f"{path}: header:")
    if rows < V:
        raise CheckpointError(f"{path}: header: {V:,} tokens, and {rows:,} rows for them")
    if L > MAX_LAYERS:
        raise CheckpointError(f"{path}: header: {L:,} layers; {MAX_LAYERS:,} are the most that are read here")
    dtype, numpys = _VERSIONS[version]
    expected = 4 * _HEADER + numpys.itemsize * sum(prod(shape) for _, shape, _ in _tensors(config, rows))
    if file.size != expected:
        what = "cut off" if file.size < expected else "longer than that"
        raise CheckpointError(f"{path}: {file.size:,} bytes, and its header describes {expected:,}: it is {what}")
    tensors = {}
    cursor = Cursor(file, 4 * _HEADER)
    for name, shape, transposed in _tensors(config, rows):
        array = cursor.array(numpys, prod(shape), name).reshape(shape)
        tensor = lazy_array(array[:V] if name == "wte.weight" else array, dtype)
        tensors[name] = tensor.T if transposed else tensor
    return Checkpoint(f"llm.c ({_WORDS[dtype]})", config, tensors, path, (file,), (), beside(path, by_size(V)))


def write(path: str | Path, checkpoint: Checkpoint, dtype: str = "F32") -> None:
    """Write a model for llm.c, atomically; ``dtype``: "F32", or "BF16", which its CUDA programs read.

    Biases that the model doesn't have are written as zeros. Raises CheckpointError if llm.c doesn't compute what the
    model does, an element is too large for the dtype, or the file can't be written.
    """
    config = checkpoint.config
    versions = {word: version for version, (word, _) in _VERSIONS.items()}
    fixed = {**_FIXED, "inner_size": 4 * config.n_embd}
    for field, computed in fixed.items():
        value = getattr(config, field)
        if value != computed:
            raise CheckpointError(f"{path}: llm.c computes with {field} = {computed} only, and this model has {value}")
    rows = -(-config.vocab_size // PADDED_TO) * PADDED_TO
    sizes = (config.block_size, config.vocab_size, config.n_layer, config.n_head, config.n_embd, rows)
    header = np.zeros(_HEADER, "<i4")
    header[:8] = int.from_bytes(LLMC_MAGIC, "little"), versions[dtype], *sizes
    numpys = _VERSIONS[versions[dtype]][1]
    config, tensors = with_all_biases(config, rounded(checkpoint, dtype, path))
    with checkpoint_file(path) as file:
        file.write(header.data)
        for name, _, transposed in _tensors(config, rows):
            for elements in (tensors[name].T if transposed else tensors[name]).iter_flat():
                file.write(np.ascontiguousarray(f32_to_bf16(elements) if dtype == "BF16" else elements, numpys).data)
            if name == "wte.weight":
                file.write(bytes((rows - config.vocab_size) * config.n_embd * numpys.itemsize))


def _tensors(config: GPTConfig, rows: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Yield (our name, the shape in the file, whether it is transposed there) of each tensor, in the file's order.

    rows    padded V. The matrices of the layers are (out, in) there, and (in, out) here
    """
    shapes = parameter_shapes(config) | {"wte.weight": (rows, config.n_embd)}
    for name in GPT2_NAMES:
        for layer in range(config.n_layer if "{}" in name else 1):
            shape = shapes[name.format(layer)]
            transposed = "{}" in name and len(shape) == 2
            yield name.format(layer), shape[::-1] if transposed else shape, transposed
