"""An adapter's matrices, read from the tensors of a file that may be a stranger's."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from npgpt.adapters.adapter import LINEAR
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.names import listed
from npgpt.errors import CheckpointError

LAYER = r"h\.(?:0|[1-9]\d{0,5})\.(?:" + "|".join(map(re.escape, LINEAR)) + ")"  # a linear layer's name


def read_matrices(
    tensors: Mapping[str, LazyTensor], names: re.Pattern, rank: int, source: Path, transposed: bool = False
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{layer: (A (in, r), B (r, out))} in the order of layers, as arrays of float32.

    names       matches the name of each tensor; its two groups are the layer, and "A" or "B"
    source      the file's name, with which each message begins
    transposed  the file has A as (r, in) and B as (out, r)

    Raises CheckpointError if a tensor has another name, isn't a matrix of floats of this rank or isn't finite, or if
    one is missing.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        match = names.fullmatch(name)
        if match is None:
            known = f"A and B of {', '.join(LINEAR)}"
            raise CheckpointError(f"{source}: tensor {name[:100]!r} is none that npgpt knows: {known}")
        layer, which = match.groups()
        if which in parts.setdefault(layer, {}):
            raise CheckpointError(f"{source}: {which} of {layer} is there twice, by two names")
        axis = int((which == "A") != transposed)
        if len(tensor.shape) != 2 or tensor.shape[axis] != rank or not tensor.is_float:
            wanted = f"a matrix of floats with {rank} {'columns' if axis else 'rows'}, which is the rank"
            raise CheckpointError(f"{source}: tensor {name!r} must be {wanted}, and is {tensor.dtype} {tensor.shape}")
        ours = tensor.T if transposed else tensor
        array = np.empty(ours.shape, np.float32)
        if not ours.copy_to(array):
            raise CheckpointError(f"{source}: NaN or infinity in {name!r}")
        parts[layer][which] = array
    lonely = [layer for layer, found in parts.items() if len(found) != 2]
    if lonely or not parts:
        what = f"only one of A and B is there for {listed(lonely)}" if lonely else "no matrices are in it"
        raise CheckpointError(f"{source}: {what}")
    order = sorted(parts, key=lambda layer: (int(layer.split(".")[1]), LINEAR.index(layer.split(".", 2)[2])))
    return {layer: (parts[layer]["A"], parts[layer]["B"]) for layer in order}
