"""Check that the tensors in a file are those of its configuration; if not, say the likely reason."""

from collections.abc import Iterable
from pathlib import Path

from npgpt.checkpoints.shared.lazy_tensor import BYTES, LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import listed
from npgpt.config import PRESETS, GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes


def check_fit(config: GPTConfig, tensors: dict[str, LazyTensor], source: Path) -> None:
    """Raise CheckpointError unless the tensors are all that the configuration's model has, each of the right shape.

    Nothing is read or made for it, so a configuration of a million layers costs nothing either.
    """
    layers = {name.split(".")[1] for name in tensors if name.startswith("h.")}
    if not layers and config.n_layer and tensors:
        raise CheckpointError(f"{source} has no tensors h.0. ... of GPT-2, but {listed(tensors)}")
    if len(layers) != config.n_layer:
        raise CheckpointError(
            f"{source}: {len(layers)} layers in the file, {config.n_layer} in its configuration{_named(len(layers))}"
        )
    # Without a position embedding no tensor shows how long a text may be; generating takes memory for all of it.
    size = sum(tensor.size for tensor in tensors.values())
    if config.position != "learned" and config.block_size * config.n_embd > 4 * size + (1 << 22):
        raise CheckpointError(
            f"{source}: a context of {config.block_size:,} in its configuration, far too long for its {size:,} elements"
        )
    expected = parameter_shapes(config)
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unexpected:
        problems = [("lacks the tensors", missing), ("has unexpected tensors:", unexpected)]
        lines = (f"{source} {what} {listed(sorted(names), 5)}" for what, names in problems if names)
        raise CheckpointError("\n".join(lines))
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            cause = _likely_cause(name, tensor.shape, shape)
            raise CheckpointError(f"{source}: tensor {name} must have shape {shape}, and has {tensor.shape}{cause}")
        if not tensor.is_float:
            raise CheckpointError(
                f"{source}: tensor {name} must hold floating-point numbers ({', '.join(BYTES)}), and is {tensor.dtype}"
            )


def check_shares_nothing(tensors: dict[str, LazyTensor], files: Iterable[MappedFile], source: str | Path) -> None:
    """Raise CheckpointError if the tensors take more bytes than the files have, so several share elements.

    A file can say that all the layers are one. Such a small file would make a large model.
    """
    needed = sum(int(tensor.size * BYTES.get(tensor.dtype, 0)) for tensor in tensors.values())
    size = sum(file.size for file in files)
    if needed > size:
        raise CheckpointError(f"{source}: the tensors take {needed:,} bytes of {size:,}: several share elements")


def _named(layers: int) -> str:
    names = [name for name, sizes in PRESETS.items() if name.startswith("gpt2") and sizes["n_layer"] == layers]
    return f": is this {names[0]}?" if names else ""


def _likely_cause(name: str, shape: tuple, expected: tuple) -> str:
    if shape == expected[::-1]:
        return ": it looks transposed"
    if name.startswith(("wte", "wpe", "lm_head")) and len(shape) == 2:
        for preset, sizes in PRESETS.items():
            if preset.startswith("gpt2") and sizes["n_embd"] == shape[1] != expected[1]:
                return f": this is {preset}, and the configuration another model's"
        if shape[1] == expected[1]:
            what = "context" if name.startswith("wpe") else "vocabulary"
            return f": a {what} of {shape[0]:,} in the file, of {expected[0]:,} in its configuration"
    return ""
