"""An adapter by itself: what it is, and its arrays, apart from any model."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npgpt.config import GPTConfig
from npgpt.errors import ConfigError
from npgpt.gpt import parameter_shapes

LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # the linear layers of a block
MAX_RANK = 1 << 16


@dataclass(frozen=True)
class LoRAConfig:
    """What an adapter is.

    rank        r, the columns of A and rows of B
    alpha       the adapter's part is multiplied by alpha / r; 0: twice the rank
    dropout     of the input that goes through A and B, while training
    targets     the layers that get one, by the end of their names: "c_attn", or "mlp.c_proj"

    Raises ConfigError on numbers that can't be.
    """

    rank: int
    alpha: float = 0.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LINEAR

    def __post_init__(self):
        for name, kind, converted in (("rank", Integral, int), ("alpha", Real, float), ("dropout", Real, float)):
            value = getattr(self, name)
            if isinstance(value, kind) and not isinstance(value, bool):  # NumPy's numbers, too
                with suppress(OverflowError):  # a whole number of 400 digits stays one, and is refused below
                    object.__setattr__(self, name, converted(value))
        if isinstance(self.targets, str):
            raise ConfigError(f"an adapter's targets are several names: ({self.targets!r},)")
        if type(self.rank) is not int or not 1 <= self.rank <= MAX_RANK:
            raise ConfigError(f"an adapter's rank must be a whole number from 1 to {MAX_RANK:,}, not {self.rank!r}")
        if type(self.alpha) not in (int, float) or not 0 <= self.alpha < 1e9:
            raise ConfigError(f"an adapter's alpha must be a number above 0, or 0 for the default, not {self.alpha!r}")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ConfigError(f"an adapter's dropout must be from 0 up to, not including, 1: {self.dropout!r}")
        object.__setattr__(self, "alpha", float(self.alpha or 2 * self.rank))

    @classmethod
    def from_file(cls, rank: Any, alpha: Any, dropout: Any, targets: Iterable[str]) -> "LoRAConfig":
        """Numbers as a file has them, of any type: an alpha of 0 isn't left out there, and can't be."""
        if alpha == 0:
            raise ConfigError("an adapter's alpha must be a number above 0, not 0")
        return cls(rank, alpha, dropout, tuple(targets))

    @property
    def scale(self) -> float:
        """s in y = x W + b + s x A B"""
        return self.alpha / self.rank


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter's configuration and arrays, and what is known of the model it belongs to.

    matrices    {"h.0.attn.c_attn": (A (in, r), B (r, out)), ...}
    base        the model's path, or its name on the hub; None if unknown
    checksum    of the base's files; None if unknown
    base_format one of config.BASE_FORMATS: how the base was held in training
    source      where the adapter was read
    """

    config: LoRAConfig
    matrices: dict[str, tuple[np.ndarray, np.ndarray]]
    base: str | None = None
    checksum: str | None = None
    base_format: str = "f32"
    source: Path | None = None

    def check(self, config: GPTConfig) -> None:
        """Raise ConfigError unless the model has these layers, with these shapes."""
        shapes = parameter_shapes(config)
        for name, (A, B) in self.matrices.items():
            shape, found = shapes.get(f"{name}.weight"), (A.shape[0], B.shape[1])
            if shape is None or name.split(".", 2)[-1] not in LINEAR:
                raise ConfigError(f"the adapter has a part for {name[:100]!r}, and the model no such linear layer")
            if found != shape:
                raise ConfigError(f"the adapter's part for {name} is of {found}, and the model's matrix of {shape}")

    def num_parameters(self) -> int:
        return sum(A.size + B.size for A, B in self.matrices.values())


def new_adapter(model: GPTConfig, config: LoRAConfig, seed: int = 0, dtype: DTypeLike = np.float32) -> Adapter:
    """An adapter that changes nothing yet, since B = 0; A is uniform between -1 / sqrt(in) and 1 / sqrt(in), as peft's.

    Raises ConfigError if a target is no linear layer of a block, or the rank is larger than a matrix.

    >>> config = GPTConfig(vocab_size=5, block_size=4, n_layer=2, n_head=1, n_embd=4)
    >>> adapter = new_adapter(config, LoRAConfig(rank=2, targets=("c_attn",)))
    >>> {name: (A.shape, B.shape) for name, (A, B) in adapter.matrices.items()}
    {'h.0.attn.c_attn': ((4, 2), (2, 12)), 'h.1.attn.c_attn': ((4, 2), (2, 12))}
    """
    shapes = parameter_shapes(model)
    layers = set()
    for target in config.targets or ("",):
        found = [name for name in LINEAR if f".{name}".endswith(f".{target}")]
        if not found:
            raise ConfigError(f"{target[:60]!r} is no linear layer of a block: there are {', '.join(LINEAR)}")
        layers.update(found)
    rng, matrices = np.random.default_rng([seed, 2]), {}
    for i in range(model.n_layer):
        for layer in LINEAR:
            if layer in layers:
                inputs, outputs = shapes[f"h.{i}.{layer}.weight"]
                if config.rank > min(inputs, outputs):
                    raise ConfigError(f"rank {config.rank} is above the size of h.{i}.{layer}, {inputs} x {outputs}")
                bound = 1 / np.sqrt(inputs)
                A = rng.uniform(-bound, bound, (inputs, config.rank)).astype(dtype)
                matrices[f"h.{i}.{layer}"] = A, np.zeros((config.rank, outputs), dtype)
    return Adapter(config, matrices)
