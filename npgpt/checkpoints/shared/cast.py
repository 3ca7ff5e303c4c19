"""A checkpoint's tensors made ready for a writer: one dtype for all, and the biases that its format must have."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes
from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16

_NUMPY = {"F32": np.float32, "F16": np.float16}


def rounded(checkpoint: Checkpoint, dtype: str, path: str | Path) -> dict[str, LazyTensor]:
    """The checkpoint's tensors, to be rounded to ``dtype`` while they are written to ``path``, a piece at a time.

    Reading an element that is too large for the dtype, and would become infinity, raises CheckpointError.
    """
    return {name: _checked(name, tensor, dtype, path) for name, tensor in checkpoint.streaming().items()}


def with_all_biases(config: GPTConfig, tensors: dict[str, LazyTensor]) -> tuple[GPTConfig, dict[str, LazyTensor]]:
    """The same function as a model with every bias, absent ones as zeros. The tensors are in the model's order."""
    config = replace(config, bias=True, qkv_bias=None)
    shapes = parameter_shapes(config)
    added = {name: _zeros(shape) for name, shape in shapes.items() if name.endswith(".bias") and name not in tensors}
    tensors = tensors | added
    return config, {name: tensors[name] for name in shapes}


def _checked(name: str, tensor: LazyTensor, dtype: str, path) -> LazyTensor:
    if dtype == tensor.dtype:
        return tensor

    def read_rows(first, last):
        elements = tensor.read_rows(first, last)
        with np.errstate(over="ignore"):
            found = bf16_to_f32(f32_to_bf16(elements)) if dtype == "BF16" else elements.astype(_NUMPY[dtype])
        if not np.isfinite(found).all():
            lost = np.isfinite(elements) & ~np.isfinite(found)
            if lost.any():
                raise CheckpointError(f"{path}: tensor {name}: {elements[lost][0]:.6g} is too large for {dtype}")
        return found

    return replace(tensor, dtype=dtype, read_rows=read_rows)


def _zeros(shape: tuple[int, ...]) -> LazyTensor:
    return LazyTensor(shape, "F32", lambda first, last: np.zeros((last - first, *shape[1:]), np.float32))
