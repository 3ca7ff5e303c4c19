"""Kernels: arrays in, arrays out. ``kernels.layernorm_forward`` and so on are the versions that NPGPT_KERNELS chooses.

One kernel a file: first the symbols and the derivation, then the plain NumPy version, which defines what is computed,
then its Numba twin, which computes the same faster. NPGPT_KERNELS=numpy takes the plain ones everywhere; it is read
once, here.
"""

import os

from npgpt.errors import ConfigError
from npgpt.kernels.table import KERNELS

BACKEND = os.environ.get("NPGPT_KERNELS", "numba")
if BACKEND not in ("numpy", "numba"):
    raise ConfigError(f"NPGPT_KERNELS must be numpy or numba, not {BACKEND!r}")

globals().update({name: versions[BACKEND] for name, versions in KERNELS.items()})
__all__ = ["BACKEND", "KERNELS", *KERNELS]
