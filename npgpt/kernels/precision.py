"""The precision of products of float32 matrices. The words are torch's, from ``set_float32_matmul_precision``:

    highest     as exact as float32 is
    high        may be less exact, by up to 2^-16 of a factor
    medium      the factors are rounded to bfloat16, 8 bits and all of float32's range, where that is faster: by 2^-9

Sums are float32 in each of them; so are weights, gradients and everything that isn't a matrix product. Small products
and those of a few rows, as for single tokens, are never rounded, since they would gain nothing.

Multiplying pairs of bfloat16 (AVX-512 BF16) takes half the time of float32's products on AMD's CPUs, and 1.45 times as
long on Intel's. So "medium" uses pairs on AMD only; NPGPT_CPU=avx512_bf16 makes it use them wherever they exist. "high"
would need three such products, so it is the same as "highest". So is "medium" on other CPUs, and in float64.
"""

import numba
import numpy as np

from npgpt.errors import ConfigError
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.vectors import IN_PAIRS

PRECISIONS = ("highest", "high", "medium")

_precision = "highest"


def set_matmul_precision(precision: str) -> None:
    """Set the precision in this process: "highest" (the default), "high" or "medium". Raises ConfigError.

    >>> set_matmul_precision("high"); get_matmul_precision()
    'high'
    >>> set_matmul_precision("highest")
    """
    global _precision
    if precision not in PRECISIONS:
        raise ConfigError(f"the precision of products must be {', '.join(PRECISIONS)}, not {precision!r}")
    _precision = precision


def get_matmul_precision() -> str:
    """The word that was set last."""
    return _precision


def rounds_to_bfloat16() -> bool:
    """Whether large products of float32 matrices round their factors to bfloat16."""
    return _precision == "medium" and UNIT.has_bf16


def gemm_dtype_tag(dtype: np.dtype) -> np.generic:
    """The type tag for ``gemm``: a scalar of the inputs' dtype, or IN_PAIRS for bfloat16."""
    return IN_PAIRS if rounds_to_bfloat16() and dtype == np.float32 else dtype.type(0)


def described() -> str:
    """The data type and the vector unit of large products, for people."""
    threads = numba.get_num_threads()
    how = "in bfloat16, AVX-512 BF16" if rounds_to_bfloat16() else f"in float32, {UNIT.title}"
    return f"{how}, {threads} thread{'s' if threads > 1 else ''}"
