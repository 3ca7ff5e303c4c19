"""The cases of bench.kernels: each kernel on the shapes that it has in a training step of GPT-2.

N = B T tokens, C channels, 4C in the MLP, V tokens in the vocabulary. ``bytes`` counts each array that is read or
written, once. ``flops`` counts multiplications and additions of products; in other kernels each +, -, *, /, maximum,
exp, log, tanh, erf and root of the NumPy version as one, however long it takes. A kernel's share is of the peak that
limits it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """``make(rng)`` gives the arguments. ``written``: the indices of those that a kernel without results writes to."""

    kernel: str
    make: Callable
    flops: int
    bytes: int
    written: tuple[int, ...] = ()


def cases(B: int, T: int, C: int, H: int, V: int) -> dict[str, Case]:
    """{name: Case}, all in float32"""
    N, D, F = B * T, C // H, 4 * C
    qkv, logits = (B, T, 3 * C), (N, V)

    def product(M, K, columns, transpose_a=False, transpose_b=False, bias=False):
        def make(rng):
            a = _normal(rng, (K, M)).T if transpose_a else _normal(rng, (M, K))
            b = _normal(rng, (columns, K)).T if transpose_b else _normal(rng, (K, columns))
            return a, b, _normal(rng, (columns,)) if bias else None

        size = M * K + K * columns + M * columns + (columns if bias else 0)
        return Case("matmul", make, flops=2 * M * K * columns, bytes=4 * size)

    def arrays(kernel, each, *shapes, also=(), results=0):
        """A kernel of arrays of these shapes, with ``each`` operations for an element of the first; ``results`` is the
        size of what it returns."""
        size = int(sum(map(np.prod, shapes))) + results
        flops = each * int(np.prod(shapes[0]))
        return Case(kernel, lambda rng: (*(_normal(rng, s) for s in shapes), *also), flops, 4 * size)

    def heads(rng):
        x = _normal(rng, qkv).reshape(B, T, 3, H, D)
        return x[:, :, 0], x[:, :, 1], x[:, :, 2], D**-0.5

    def attention_backward(rng):
        from npgpt.kernels import KERNELS

        q, k, v, scale = heads(rng)
        _, row_max, row_sum = KERNELS["attention_forward"]["numba"](q, k, v, scale)
        dqkv = (np.empty(q.shape, np.float32) for _ in range(3))
        return (_normal(rng, q.shape), q, k, v, row_max, row_sum, scale, *dqkv)

    def layernorm_backward(rng):
        from npgpt.kernels import KERNELS

        dy, x, weight = _normal(rng, (N, C)), _normal(rng, (N, C)), _normal(rng, (C,))
        _, mean, rstd = KERNELS["layernorm_forward"]["numpy"](x, weight, None, 1e-5)
        return dy, x, weight, mean, rstd

    def cross_entropy(rng):
        return _normal(rng, logits), rng.integers(V, size=N), -100

    def cross_entropy_backward(rng):
        from npgpt.kernels import KERNELS

        x, targets, ignore_index = cross_entropy(rng)
        _, row_max, row_sum = KERNELS["cross_entropy_forward"]["numba"](x, targets, ignore_index)
        return np.full(N, 1 / N, np.float32), x, targets, row_max, row_sum, ignore_index

    def adamw(rng):
        p, g, m, v = (_normal(rng, (V, C)) for _ in range(4))
        return [p], [g], [m], [v * v], 1e-3, 0.9, 0.95, 1e-8, [0.1], 10

    half = T * (T + 1) // 2 * D * B * H  # pairs that the mask leaves, times D
    statistics = 2 * N * H  # row_max and row_sum of the scores
    return {
        "x @ W + b, c_attn": product(N, C, 3 * C, bias=True),
        "x @ W + b, c_fc": product(N, C, F, bias=True),
        "dy @ W.T, c_fc": product(N, F, C, transpose_b=True),
        "x.T @ dy, c_fc": product(C, N, F, transpose_a=True),
        "x @ wte.T, head": product(N, C, V, transpose_b=True),
        "attention forward": Case("attention_forward", heads, 2 * 2 * half, 4 * (4 * N * C + statistics)),
        "attention backward": Case(
            "attention_backward", attention_backward, 5 * 2 * half, 4 * (7 * N * C + statistics), written=(7, 8, 9)
        ),
        "cross-entropy forward": Case("cross_entropy_forward", cross_entropy, 4 * N * V, 4 * N * V),
        "cross-entropy backward": Case("cross_entropy_backward", cross_entropy_backward, 4 * N * V, 8 * N * V),
        "softmax forward": arrays("softmax_forward", 5, (N, 1024), results=N * 1024),
        "softmax backward": arrays("softmax_backward", 4, (N, 1024), (N, 1024), results=N * 1024),
        "layernorm forward": arrays("layernorm_forward", 7, (N, C), (C,), (C,), also=(1e-5,), results=N * C),
        "layernorm backward": Case("layernorm_backward", layernorm_backward, 13 * N * C, 12 * N * C),
        "GELU (tanh) forward": arrays("gelu_tanh_forward", 9, (N, F), results=N * F),
        "GELU (tanh) backward": arrays("gelu_tanh_backward", 18, (N, F), (N, F), results=N * F),
        "GELU forward": arrays("gelu_forward", 5, (N, F), results=N * F),
        "GELU backward": arrays("gelu_backward", 11, (N, F), (N, F), results=N * F),
        "dropout": arrays("dropout", 1, (N, C), also=(0.1, 7), results=N * C),
        "embedding backward": Case(
            "embedding_backward",
            lambda rng: (_normal(rng, (N, C)), rng.integers(V, size=N), np.zeros((V, C), np.float32)),
            flops=N * C,
            bytes=12 * N * C,
            written=(2,),
        ),
        "bias gradient": arrays("sum_rows", 1, (N, F)),
        "gradient's norm": Case("sum_of_squares", lambda rng: ([_normal(rng, (V, C))],), 2 * V * C, 4 * V * C),
        "clipping": Case("scale", lambda rng: ([_normal(rng, (V, C))], -1.0), V * C, 8 * V * C, written=(0,)),
        "AdamW": Case("adamw_step", adamw, 14 * V * C, 28 * V * C, written=(0, 2, 3)),
    }


def _normal(rng, shape):
    return rng.standard_normal(shape, np.float32)
