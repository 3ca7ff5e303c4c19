"""Kernels: arrays in, arrays out. ``kernels.layernorm_forward`` and so on are the versions that NPGPT_KERNELS chooses.

One kernel a file: first the symbols and the derivation, then the plain NumPy version, which defines the result, then
its Numba twin, which computes the same faster. NPGPT_KERNELS=numpy takes the plain ones everywhere.
"""

import os

from npgpt.errors import ConfigError
from npgpt.kernels.table import DECODING, FEW_BITS, KERNELS

BACKEND = os.environ.get("NPGPT_KERNELS", "numba")
if BACKEND not in ("numpy", "numba"):
    raise ConfigError(f"NPGPT_KERNELS must be numpy or numba, not {BACKEND!r}")

matmul = KERNELS["matmul"][BACKEND]
softmax_forward = KERNELS["softmax_forward"][BACKEND]
softmax_backward = KERNELS["softmax_backward"][BACKEND]
layernorm_forward = KERNELS["layernorm_forward"][BACKEND]
layernorm_backward = KERNELS["layernorm_backward"][BACKEND]
gelu_forward = KERNELS["gelu_forward"][BACKEND]
gelu_backward = KERNELS["gelu_backward"][BACKEND]
gelu_tanh_forward = KERNELS["gelu_tanh_forward"][BACKEND]
gelu_tanh_backward = KERNELS["gelu_tanh_backward"][BACKEND]
attention_forward = KERNELS["attention_forward"][BACKEND]
attention_backward = KERNELS["attention_backward"][BACKEND]
cross_entropy_forward = KERNELS["cross_entropy_forward"][BACKEND]
cross_entropy_backward = KERNELS["cross_entropy_backward"][BACKEND]
embedding_backward = KERNELS["embedding_backward"][BACKEND]
dropout = KERNELS["dropout"][BACKEND]
sum_rows = KERNELS["sum_rows"][BACKEND]
sum_of_squares = KERNELS["sum_of_squares"][BACKEND]
scale = KERNELS["scale"][BACKEND]
adamw_step = KERNELS["adamw_step"][BACKEND]
packed_matmul = DECODING["packed_matmul"][BACKEND]
decode_step = DECODING["decode_step"][BACKEND]
few_bits_matmul = FEW_BITS["few_bits_matmul"][BACKEND]
