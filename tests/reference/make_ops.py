"""ops.npz: what torch gets for every operation, on small inputs, so that a machine without torch can check ours.

A case holds its inputs and options, and torch's result and gradients in float64 and in float32. The inputs are
float32, so that both formats get the same numbers.
"""

import numpy as np
from helpers.against_torch import STORED, by_torch


def cases() -> dict[str, tuple[dict, dict]]:
    """{"OPERATION, what is special": (inputs, options)}"""
    rng = np.random.default_rng(20240229)

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    padding = np.ones((3, 7), bool)
    padding[0, 5:] = False  # after the text
    padding[1, :3] = False  # before it, so that three rows see nothing
    masked = normal(6, 9)
    masked[:, 1:][rng.random((6, 8)) < 0.6] = -np.inf
    some = rng.integers(11, size=(3, 5))
    some[0, 1:4] = some[2, 4] = -100

    return {
        "linear": ({"x": normal(2, 5, 7), "weight": normal(7, 9), "bias": normal(9)}, {}),
        "linear, no bias": ({"x": normal(4, 7), "weight": normal(7, 3)}, {}),
        "gelu": ({"x": normal(3, 40, scale=3)}, {}),
        "gelu_tanh": ({"x": normal(3, 40, scale=3)}, {}),
        "relu": ({"x": np.append(normal(40), np.zeros(2, np.float32))}, {}),
        "softmax": ({"x": normal(2, 4, 9, scale=3)}, {}),
        "softmax, masked": ({"x": masked}, {}),
        "softmax, logits of 10,000": ({"x": normal(6, 9, scale=1e4)}, {}),
        "layernorm": ({"x": normal(2, 5, 16, scale=2), "weight": normal(16), "bias": normal(16)}, {"eps": 1e-5}),
        "layernorm, no bias, large eps": ({"x": normal(4, 6), "weight": normal(6)}, {"eps": 0.1}),
        "embedding": ({"weight": normal(6, 5)}, {"ids": rng.integers(4, size=(2, 9))}),
        "dropout": ({"x": normal(4, 30)}, {"p": 0.3, "seed": 2**64 - 3}),
        "causal_self_attention": ({"qkv": normal(2, 9, 24)}, {"n_head": 2}),
        "causal_self_attention, one position": ({"qkv": normal(2, 1, 12)}, {"n_head": 2}),
        "causal_self_attention, padding": ({"qkv": normal(3, 7, 18)}, {"n_head": 3, "padding_mask": padding}),
        "causal_self_attention, scale and dropout": (
            {"qkv": normal(2, 9, 18)},
            {"n_head": 1, "scale": 0.9, "dropout": 0.4, "seed": 5},
        ),
        "cross_entropy": ({"logits": normal(4, 11, scale=2)}, {"targets": rng.integers(11, size=4)}),
        "cross_entropy, some ignored": ({"logits": normal(3, 5, 11)}, {"targets": some}),
        "cross_entropy, logits of 10,000": (
            {"logits": normal(4, 11, scale=1e4)},
            {"targets": np.array([1, 0, 9, 3]), "ignore_index": 0},
        ),
        "linear_cross_entropy": (
            {"x": normal(3, 5, 8), "weight": normal(11, 8)},
            {"targets": rng.integers(11, size=(3, 5))},
        ),
        "linear_cross_entropy, some ignored": ({"x": normal(3, 5, 8), "weight": normal(11, 8)}, {"targets": some}),
        "rotary": ({"qkv": normal(2, 5, 24)}, {"n_head": 2}),
        "rotary, from position 1,000": ({"qkv": normal(1, 3, 12)}, {"n_head": 1, "first": 1000}),
        "lora": ({"y": normal(2, 5, 9), "x": normal(2, 5, 7), "A": normal(7, 3), "B": normal(3, 9)}, {"scale": 1.5}),
        "lora, dropout": (
            {"y": normal(4, 6), "x": normal(4, 7), "A": normal(7, 1), "B": normal(1, 6)},
            {"scale": 0.25, "p": 0.3, "seed": 9},
        ),
    }


def results() -> dict[str, np.ndarray]:
    """{key in the file: array}"""
    arrays = {}
    for case, (inputs, options) in cases().items():
        parts = {"inputs": inputs, "options": options}
        for dtype in (np.float64, np.float32):
            parts[dtype.__name__] = by_torch(case.split(",")[0], inputs, options, dtype)
        arrays |= {f"{case}/{part}/{name}": np.asarray(x) for part, of in parts.items() for name, x in of.items()}
    return arrays


def write():
    np.savez_compressed(STORED, **results())
    return STORED
