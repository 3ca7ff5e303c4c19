"""How exact the products of float32 matrices are. The words are torch's, from ``set_float32_matmul_precision``:

    highest     as exact as float32 is
    high        may be less exact, by up to 2^-16 of a factor
    medium      the factors are rounded to bfloat16, 8 bits and all of float32's range, where that is faster: by 2^-9

Sums are float32 in each of them; so are weights, gradients and all that isn't a matrix product. Small products and
those of a few rows, as for single tokens, are never rounded: they would gain nothing.

What is faster depends on the CPU. Pairs of bfloat16 numbers (AVX-512 BF16) take half the time of float32's products.
"high" would need three of them, in one and a half times that time: so it is the same as "highest". So is "medium" on a
CPU without such instructions, and in float64.
"""

import numba
import numpy as np

from npgpt.errors import ConfigError
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.vectors import IN_PAIRS

PRECISIONS = ("highest", "high", "medium")

_precision = "highest"


def set_matmul_precision(precision: str) -> None:
    """From now on, in this process, "highest" (which it is at first), "high" or "medium". Raises ConfigError."""
    global _precision
    if precision not in PRECISIONS:
        raise ConfigError(f"the precision of products must be {', '.join(PRECISIONS)}, not {precision!r}")
    _precision = precision


def get_matmul_precision() -> str:
    return _precision


def rounds_to_bfloat16() -> bool:
    """Whether large products of float32 matrices round their factors now."""
    return _precision == "medium" and UNIT.has_bf16


def factors_like(dtype):
    """What ``add_product`` is told of its factors: a number like them, or that they are rounded and taken in pairs."""
    return IN_PAIRS if rounds_to_bfloat16() and dtype == np.float32 else dtype.type(0)


def described() -> str:
    """Which numbers large products are made of now, and by what."""
    threads = numba.get_num_threads()
    how = "in bfloat16, AVX-512 BF16" if rounds_to_bfloat16() else f"in float32, {UNIT.title}"
    return f"{how}, {threads} thread{'s' if threads > 1 else ''}"
