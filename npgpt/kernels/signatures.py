"""The argument types of the kernels that training and sampling run, so that they can be compiled beforehand.

tests/test_precompile.py holds that real runs compile exactly these.
"""

import numpy as np
from numba import from_dtype, types

from npgpt.kernels import (
    adamw,
    attention,
    cross_entropy,
    decode,
    embedding,
    few_bits_product,
    gelu,
    heads,
    layernorm,
    packed,
    packed_product,
    parallel_product,
    reductions,
)
from npgpt.kernels.dropout import _drop
from npgpt.kernels.matmul import _add_few_rows
from npgpt.kernels.precision import narrow_dtype_tag


def signatures(dtype: np.dtype, gemm_dtype: np.dtype) -> dict[str, tuple]:
    """{a kernel's name: (its dispatcher, the types of its arguments)} for arrays of ``dtype``.

    gemm_dtype      of the scalar that ``precision.gemm_dtype_tag`` gives
    """
    f, tag = from_dtype(dtype), from_dtype(gemm_dtype)
    narrow_tag = from_dtype(narrow_dtype_tag(gemm_dtype.type(0)).dtype)
    i64, u64, flag = types.int64, types.uint64, types.boolean
    vector, matrix, array3, array4 = f[::1], f[:, ::1], f[:, :, ::1], f[:, :, :, ::1]
    view4, ids, addresses = f[:, :, :, :], i64[::1], i64[:, ::1]
    strided = types.NamedUniTuple(i64, 5, heads.Strided)
    factor = types.NamedUniTuple(i64, 4, parallel_product.Factor)
    mask_and_dropout = (i64[:, ::1], u64, f, u64)
    table = {
        "matmul": (parallel_product.multiply, (i64, factor, factor, flag, i64, i64, matrix, i64, tag)),
        "matmul_few_rows": (_add_few_rows, (matrix, matrix, flag, matrix, i64)),
        "layernorm_forward": (layernorm._forward_rows, (matrix, vector, vector, f, matrix, vector, vector)),
        "layernorm_backward": (layernorm._backward, (matrix, matrix, vector, vector, vector, matrix, array3)),
        "gelu_forward": (gelu._exact_forward, (vector, vector)),
        "gelu_backward": (gelu._exact_backward, (vector, vector, vector)),
        "gelu_tanh_forward": (gelu._tanh_forward, (vector, vector)),
        "gelu_tanh_backward": (gelu._tanh_backward, (vector, vector, vector)),
        "attention_forward": (
            attention._forward_heads,
            (i64, i64, strided, strided, strided, f, *mask_and_dropout, narrow_tag, array4, array3, array3),
        ),
        "attention_backward": (
            attention._backward_heads,
            (i64, *[strided] * 4, array3, array3, f, *mask_and_dropout, narrow_tag, view4, view4, view4),
        ),
        "cross_entropy_forward": (cross_entropy._forward_rows, (matrix, ids, i64, vector, vector, vector)),
        "cross_entropy_backward": (cross_entropy._backward_rows, (vector, matrix, ids, vector, vector, i64, matrix)),
        "embedding_backward": (embedding._add_rows, (matrix, ids, matrix)),
        "dropout": (_drop, (vector, f, u64, u64, vector)),
        "sum_rows": (reductions._sum_rows, (matrix, vector)),
        "sum_of_squares": (reductions._sum_chunks, (addresses, ids, f, types.float64[::1])),
        "scale": (reductions._scale_chunks, (addresses, ids, f)),
        "adamw_step": (adamw._step, (addresses, ids, ids, f, vector, *[f] * 7)),
    }
    if dtype == np.float32:
        table |= _of_decoding() | _of_few_bits(tag)
    return {name: (launch.dispatcher, types) for name, (launch, types) in table.items()}


def _of_decoding() -> dict[str, tuple]:
    """Those of packed weights: pack, and for each format packed_matmul_FORMAT and decode_step_FORMAT.

    decode_step_FORMAT_bf16 is that with keys and values in bfloat16.
    """
    f, i64 = types.float32, types.int64
    vector, matrix, ids = f[::1], f[:, ::1], i64[::1]
    table = {"pack": (packed._copy_to_panels, (*[i64] * 4, f[:, :, ::1]))}
    for name, tag in packed.TAGS.items():
        tag = from_dtype(tag.dtype)
        table[f"packed_matmul_{name}"] = packed_product._multiply, (matrix, *[i64] * 3, matrix, i64, tag)
        for suffix, element in (("", f), ("_bf16", types.uint16)):
            arrays = [matrix] * 6 + [element[:, :, :, :, ::1]] * 2 + [ids] * 2 + [matrix] * 2 + [vector]
            arguments = (i64[:, ::1], *arrays, f, i64, i64, ids, ids, i64, tag)
            table[f"decode_step_{name}{suffix}"] = decode._step, arguments
    return table


def _of_few_bits(tag) -> dict[str, tuple]:
    """Those of frozen weights: few_bits_matmul_nf4 and few_bits_matmul_bf16."""
    f, i64, byte = types.float32, types.int64, types.uint8
    matrix, vector = f[:, ::1], f[::1]
    table = {}
    for name, code in (("nf4", byte), ("bf16", types.uint16)):
        weights = code[:, ::1], byte[:, ::1], vector, types.float64
        others = types.uint64[::1], vector, types.boolean, i64, matrix, i64, tag
        table[f"few_bits_matmul_{name}"] = few_bits_product._multiply, (matrix, *weights, *others)
    return table
