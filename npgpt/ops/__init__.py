"""Differentiable operations, one a file: forward and backward, with the formulas of both.

All raise TypeError on an array where they take a Tensor.
"""

from npgpt.ops.attention import causal_self_attention
from npgpt.ops.cross_entropy import cross_entropy
from npgpt.ops.dropout import dropout
from npgpt.ops.embedding import embedding
from npgpt.ops.gelu import gelu, gelu_tanh
from npgpt.ops.layernorm import layernorm
from npgpt.ops.linear import linear
from npgpt.ops.linear_cross_entropy import linear_cross_entropy
from npgpt.ops.lora import lora
from npgpt.ops.relu import relu
from npgpt.ops.rotary import rotary
from npgpt.ops.softmax import softmax

__all__ = [
    "causal_self_attention",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "gelu_tanh",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "lora",
    "relu",
    "rotary",
    "softmax",
]
