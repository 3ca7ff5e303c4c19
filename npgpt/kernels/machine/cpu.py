"""The unit of this CPU that products are written for: the widest one, or another one with NPGPT_CPU."""

import os
import platform
import sys
from dataclasses import dataclass, replace

from llvmlite import binding

from npgpt.errors import ConfigError


@dataclass(frozen=True)
class VectorUnit:
    """``bytes`` of a register, and the tile of a product that is held in registers: ``rows`` x ``vectors`` of them.

    Each step of a tile's sum needs rows * vectors accumulators, ``vectors`` registers of B and one element of A. More
    accumulators hide the latency of an addition and use each loaded element more often; one accumulator too many is
    stored to memory and loaded again in each step.
    """

    name: str
    title: str  # the vendor's name of the float32 instruction set
    bytes: int
    rows: int
    vectors: int
    has_bf16: bool = False  # whether it multiplies pairs of bfloat16
    tiles: str = ""  # what multiplies tiles of bfloat16 (tiles.py): "instructions", "plain" code, or nothing
    has_blas: bool = False  # whether NumPy's own library may be faster (precision.py)


# The tile of each unit leaves a few of its registers for what is loaded: of 32 with AVX-512 and NEON, of 16 else.
UNITS = {
    "tiles": VectorUnit("tiles", "AVX-512", 64, 12, 2, has_bf16=True, tiles="instructions"),
    "avx512_bf16": VectorUnit("avx512_bf16", "AVX-512", 64, 12, 2, has_bf16=True),
    "avx512": VectorUnit("avx512", "AVX-512", 64, 12, 2),
    "avx2": VectorUnit("avx2", "AVX2", 32, 6, 2),
    "neon": VectorUnit("neon", "NEON", 16, 8, 3),
    "generic": VectorUnit("generic", "128-bit vectors", 16, 4, 2),
}
PLAIN_TILES = "tiles-plain"  # the vector unit of this machine, beside tiles in plain code
BLAS = "blas"  # the vector unit of this machine, beside NumPy's library
_FEATURES = {
    "tiles": ("amx-tile", "amx-bf16", "avx512bf16"),
    "avx512_bf16": ("avx512bf16",),
    "avx512": ("avx512f",),
    "avx2": ("avx2",),
    "neon": ("neon",),
    "generic": (),
}


def available() -> list[str]:
    """The units that this machine has, the widest first; "generic", "tiles-plain" and "blas" are on every machine."""
    features = dict(binding.get_host_cpu_features())
    # Every 64-bit ARM has NEON; which features LLVM names there depends on the operating system.
    features["neon"] = platform.machine().lower() in ("aarch64", "arm64")
    found = [name for name in UNITS if all(features.get(feature) for feature in _FEATURES[name])]
    return [*found, PLAIN_TILES, BLAS]


def _chosen() -> VectorUnit:
    widest = available()[0]
    # On Apple's CPUs NumPy's library uses a matrix unit that NEON's instructions don't reach.
    usual = BLAS if widest == "neon" and sys.platform == "darwin" else widest
    wanted = os.environ.get("NPGPT_CPU", usual)
    if wanted not in available():
        raise ConfigError(f"NPGPT_CPU must be one of what this machine has, {', '.join(available())}, not {wanted!r}")
    if wanted == PLAIN_TILES:
        return replace(UNITS[widest], name=PLAIN_TILES, tiles="plain")
    if wanted == BLAS:
        return replace(UNITS[widest], name=BLAS, has_bf16=False, tiles="", has_blas=True)
    return UNITS[wanted]


UNIT = _chosen()
IS_ASKED_FOR = "NPGPT_CPU" in os.environ  # then all that the unit can do is used, whether it is the fastest or not


def identity() -> str:
    """What tells this kind of CPU from others: LLVM's name of it, and its features."""
    return repr((binding.get_host_cpu_name(), sorted(binding.get_host_cpu_features().items())))


def _has_int8_dot() -> bool:
    features = dict(binding.get_host_cpu_features())  # those of this machine, whatever UNIT is
    if UNIT.bytes == 64:
        return bool(features.get("avx512vnni"))
    return UNIT.bytes == 32 and bool(
        features.get("avxvnni") or (features.get("avx512vnni") and features.get("avx512vl"))
    )


HAS_INT8_DOT = _has_int8_dot()  # an instruction that adds up four products of 8 bits in each lane of 32
# An instruction that turns float16 into float32. Without it LLVM calls a function that isn't everywhere.
HAS_HALF = "neon" in available() or bool(dict(binding.get_host_cpu_features()).get("f16c"))
