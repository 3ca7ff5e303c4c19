"""Kernels: arrays in, arrays out. ``kernels.layernorm_forward`` and so on are the versions that NPGPT_KERNELS chooses.

The file of a kernel begins with the symbols and the derivation. Then comes the plain NumPy version, which defines the
result, then its Numba twin, which computes the same faster. table.py lists all kernels; the other files are what they
share. NPGPT_KERNELS=numpy chooses the plain version of all.
"""

import os
import platform
import warnings
from collections.abc import Callable
from typing import TypeVar

import numba

from npgpt.errors import ConfigError
from npgpt.kernels.adamw import adamw_step_numpy
from npgpt.kernels.attention import attention_backward_numpy, attention_forward_numpy
from npgpt.kernels.cross_entropy import cross_entropy_backward_numpy, cross_entropy_forward_numpy
from npgpt.kernels.decode import decode_step_numpy
from npgpt.kernels.dropout import dropout_numpy
from npgpt.kernels.embedding import embedding_backward_numpy
from npgpt.kernels.few_bits_product import few_bits_matmul_numpy
from npgpt.kernels.gelu import (
    gelu_backward_numpy,
    gelu_forward_numpy,
    gelu_tanh_backward_numpy,
    gelu_tanh_forward_numpy,
)
from npgpt.kernels.layernorm import layernorm_backward_numpy, layernorm_forward_numpy
from npgpt.kernels.matmul import matmul_numpy
from npgpt.kernels.packed_product import packed_matmul_numpy
from npgpt.kernels.reductions import scale_numpy, sum_of_squares_numpy, sum_rows_numpy
from npgpt.kernels.softmax import softmax_backward_numpy, softmax_forward_numpy
from npgpt.kernels.table import DECODING, FEW_BITS, KERNELS

BACKEND = os.environ.get("NPGPT_KERNELS", "numba")
if BACKEND not in ("numpy", "numba"):
    raise ConfigError(f"NPGPT_KERNELS must be numpy or numba, not {BACKEND!r}")
if numba.config.DISABLE_JIT and BACKEND == "numba":
    raise ConfigError("NUMBA_DISABLE_JIT switches off the compiler of Numba's kernels. Set NPGPT_KERNELS=numpy as well")
if platform.machine().lower() in ("arm64", "aarch64"):
    # NumPy warns of these in products of ordinary numbers there: its library leaves the CPU's flags set (numpy#28687).
    warnings.filterwarnings(
        "ignore", "(divide by zero|overflow|invalid value) encountered in matmul", RuntimeWarning, r"npgpt\."
    )

Kernel = TypeVar("Kernel", bound=Callable)


def _chosen(plain: Kernel) -> Kernel:
    """The BACKEND's version of the kernel that ``plain`` defines, from the table.

    Given the plain version and not a name, an editor shows the arguments of ``kernels.layernorm_forward``, and goes
    from there to the file with the derivation.
    """
    name = plain.__name__.removesuffix("_numpy")
    return (KERNELS | DECODING | FEW_BITS)[name][BACKEND]


matmul = _chosen(matmul_numpy)
softmax_forward = _chosen(softmax_forward_numpy)
softmax_backward = _chosen(softmax_backward_numpy)
layernorm_forward = _chosen(layernorm_forward_numpy)
layernorm_backward = _chosen(layernorm_backward_numpy)
gelu_forward = _chosen(gelu_forward_numpy)
gelu_backward = _chosen(gelu_backward_numpy)
gelu_tanh_forward = _chosen(gelu_tanh_forward_numpy)
gelu_tanh_backward = _chosen(gelu_tanh_backward_numpy)
attention_forward = _chosen(attention_forward_numpy)
attention_backward = _chosen(attention_backward_numpy)
cross_entropy_forward = _chosen(cross_entropy_forward_numpy)
cross_entropy_backward = _chosen(cross_entropy_backward_numpy)
embedding_backward = _chosen(embedding_backward_numpy)
dropout = _chosen(dropout_numpy)
sum_rows = _chosen(sum_rows_numpy)
sum_of_squares = _chosen(sum_of_squares_numpy)
scale = _chosen(scale_numpy)
adamw_step = _chosen(adamw_step_numpy)
packed_matmul = _chosen(packed_matmul_numpy)
decode_step = _chosen(decode_step_numpy)
few_bits_matmul = _chosen(few_bits_matmul_numpy)
