"""Every kernel with its versions: the NumPy one, which defines it; its Numba twin; others that are worth reading.

The choice of version, the tests that prove them equal and the benchmarks all go through this table.
"""

from collections.abc import Callable

from npgpt.kernels import (
    adamw,
    attention,
    cross_entropy,
    decode,
    dropout,
    embedding,
    few_bits_product,
    gelu,
    layernorm,
    matmul,
    packed_product,
    reductions,
    softmax,
)

KERNELS: dict[str, dict[str, Callable]] = {
    "matmul": {"numpy": matmul.matmul_numpy, "numba": matmul.matmul_numba, "blocked": matmul.matmul_blocked},
    "softmax_forward": {"numpy": softmax.softmax_forward_numpy, "numba": softmax.softmax_forward_numba},
    "softmax_backward": {"numpy": softmax.softmax_backward_numpy, "numba": softmax.softmax_backward_numba},
    "layernorm_forward": {"numpy": layernorm.layernorm_forward_numpy, "numba": layernorm.layernorm_forward_numba},
    "layernorm_backward": {"numpy": layernorm.layernorm_backward_numpy, "numba": layernorm.layernorm_backward_numba},
    "gelu_forward": {"numpy": gelu.gelu_forward_numpy, "numba": gelu.gelu_forward_numba},
    "gelu_backward": {"numpy": gelu.gelu_backward_numpy, "numba": gelu.gelu_backward_numba},
    "gelu_tanh_forward": {"numpy": gelu.gelu_tanh_forward_numpy, "numba": gelu.gelu_tanh_forward_numba},
    "gelu_tanh_backward": {"numpy": gelu.gelu_tanh_backward_numpy, "numba": gelu.gelu_tanh_backward_numba},
    "attention_forward": {"numpy": attention.attention_forward_numpy, "numba": attention.attention_forward_numba},
    "attention_backward": {"numpy": attention.attention_backward_numpy, "numba": attention.attention_backward_numba},
    "cross_entropy_forward": {
        "numpy": cross_entropy.cross_entropy_forward_numpy,
        "numba": cross_entropy.cross_entropy_forward_numba,
    },
    "cross_entropy_backward": {
        "numpy": cross_entropy.cross_entropy_backward_numpy,
        "numba": cross_entropy.cross_entropy_backward_numba,
    },
    "embedding_backward": {"numpy": embedding.embedding_backward_numpy, "numba": embedding.embedding_backward_numba},
    "dropout": {"numpy": dropout.dropout_numpy, "numba": dropout.dropout_numba},
    "sum_rows": {"numpy": reductions.sum_rows_numpy, "numba": reductions.sum_rows_numba},
    "sum_of_squares": {"numpy": reductions.sum_of_squares_numpy, "numba": reductions.sum_of_squares_numba},
    "scale": {"numpy": reductions.scale_numpy, "numba": reductions.scale_numba},
    "adamw_step": {"numpy": adamw.adamw_step_numpy, "numba": adamw.adamw_step_numba},
}

# Those that take packed weights (packed.py) and are of float32 alone. What tests and benchmarks do with every kernel of
# the table above doesn't fit them; they have tests and benchmarks of their own.
DECODING: dict[str, dict[str, Callable]] = {
    "packed_matmul": {"numpy": packed_product.packed_matmul_numpy, "numba": packed_product.packed_matmul_numba},
    "decode_step": {"numpy": decode.decode_step_numpy, "numba": decode.decode_step_numba},
}

# Those that take frozen weights in few bits (few_bits.py), with which adapters are trained. Apart for the same reason.
FEW_BITS: dict[str, dict[str, Callable]] = {
    "few_bits_matmul": {
        "numpy": few_bits_product.few_bits_matmul_numpy,
        "numba": few_bits_product.few_bits_matmul_numba,
    },
}
