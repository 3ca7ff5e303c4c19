"""What a writer does with a checkpoint's tensors first: one dtype for all, and the biases that its format must have."""

from dataclasses import replace

import numpy as np

from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import Stored
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes

DTYPES = ("F32", "F16", "BF16")


def rounded(checkpoint: Checkpoint, dtype: str, path) -> dict[str, Stored]:
    """The checkpoint's tensors, to be rounded to ``dtype`` while they are written to ``path``, a piece at a time.

    The pages of the files that they come from are let go of on the way. Raises CheckpointError if there is no such
    dtype; so does reading a number that is too large for it, which would become infinity.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: dtype {dtype[:100]!r} is not one of {', '.join(DTYPES)}")
    return {name: _checked(name, tensor, dtype, path) for name, tensor in checkpoint.passing().items()}


def with_all_biases(config: GPTConfig, tensors: dict[str, Stored]) -> tuple[GPTConfig, dict[str, Stored]]:
    """The same function as a model that has every bias: those that the configuration leaves out are zeros.

    The tensors are in the model's order.
    """
    config = replace(config, bias=True, qkv_bias=None)
    shapes = parameter_shapes(config)
    added = {name: _zeros(shape) for name, shape in shapes.items() if name.endswith(".bias") and name not in tensors}
    tensors = tensors | added
    return config, {name: tensors[name] for name in shapes}


def _checked(name: str, tensor: Stored, dtype: str, path) -> Stored:
    if dtype == tensor.dtype:
        return tensor
    converted = tensor.as_type(dtype)

    def rows(first, last):
        with np.errstate(over="ignore"):
            found = converted.rows(first, last)
        if not np.isfinite(found).all():
            numbers = tensor.rows(first, last)
            lost = np.isfinite(numbers) & ~np.isfinite(found)
            if lost.any():
                raise CheckpointError(f"{path}: tensor {name}: {numbers[lost][0]:.6g} is too large for {dtype}")
        return found

    return replace(converted, rows=rows)


def _zeros(shape: tuple[int, ...]) -> Stored:
    return Stored(shape, "F32", lambda first, last: np.zeros((last - first, *shape[1:]), np.float32))
