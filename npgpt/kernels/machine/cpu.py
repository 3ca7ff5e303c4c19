"""The vector unit that products are written for: the widest this CPU has, or a lower one with NPGPT_CPU."""

import os
from dataclasses import dataclass

from llvmlite import binding

from npgpt.errors import ConfigError


@dataclass(frozen=True)
class VectorUnit:
    """``bytes`` of a register, and the tile of a product that is held in registers: ``rows`` x ``vectors`` registers.

    ``has_bf16``: whether it multiplies pairs of bfloat16 numbers, twice as many as float32 numbers at a time.

    Each step of a tile's sum needs rows * vectors accumulators, vectors numbers of B and one of A. More accumulators
    hide the latency of an addition and use each loaded number more often; one too many goes to memory in each step.
    """

    name: str
    bytes: int
    rows: int
    vectors: int
    has_bf16: bool = False

    @property
    def title(self) -> str:
        """What its makers call it, as far as float32 goes."""
        titles = {"avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "generic": "128-bit vectors"}
        return titles[self.name.removesuffix("_bf16")]


# The tile of each unit leaves a few of its registers (32, 32, 16, 32, 16) for what is loaded.
UNITS = {
    "avx512_bf16": VectorUnit("avx512_bf16", 64, 12, 2, has_bf16=True),
    "avx512": VectorUnit("avx512", 64, 12, 2),
    "avx2": VectorUnit("avx2", 32, 6, 2),
    "neon": VectorUnit("neon", 16, 8, 3),
    "generic": VectorUnit("generic", 16, 4, 2),
}
_FEATURE = {"avx512_bf16": "avx512bf16", "avx512": "avx512f", "avx2": "avx2", "neon": "neon"}


def available() -> list[str]:
    """The units that this machine has, the widest first; "generic" is what any machine has."""
    features = binding.get_host_cpu_features()
    return [name for name in UNITS if name == "generic" or features.get(_FEATURE[name])]


def _chosen() -> VectorUnit:
    wanted = os.environ.get("NPGPT_CPU")
    if wanted is None:
        return UNITS[available()[0]]
    if wanted not in available():
        raise ConfigError(f"NPGPT_CPU must be one of what this machine has, {', '.join(available())}, not {wanted!r}")
    return UNITS[wanted]


UNIT = _chosen()
