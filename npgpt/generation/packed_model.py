"""A model whose matrices are packed for generating (kernels/packed.py): float32, or in 16, 8 or 4 bits."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.gpt import GPT
from npgpt.kernels.decode import DecodeWeights, LayerNormWeights, LayerWeights, LinearWeights
from npgpt.kernels.packed import PackedMatrix, columns, pack, unpack
from npgpt.layers import LayerNorm, Linear, Module
from npgpt.tensor import Tensor

MAX_FEW_ROWS = 48  # beyond, unpacking a matrix for a product of its own takes less time than working on packed panels


class PackedLinear(Module):
    """y = x W + b without a backward pass.   W packed; in float32 the matrix itself stays beside it, for many rows

    A row gives the same beside others as alone. So int8 and int4, which round x, do it for any number of rows.
    """

    def __init__(self, linear: Linear, format: str):
        self.matrix = pack(linear.weight.data, format)
        self.plain = linear.weight.data if format == "f32" else None
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.data.reshape(-1, self.matrix.K)
        bias = None if self.bias is None else self.bias.data
        if len(rows) <= MAX_FEW_ROWS or self.matrix.scales is not None:
            y = kernels.packed_matmul(rows, self.matrix, bias)
        else:
            y = kernels.matmul(rows, unpack(self.matrix) if self.plain is None else self.plain, bias)
        return Tensor(y.reshape(*x.shape[:-1], -1))


class PackedEmbedding(Module):
    """ids (...) -> (..., C): columns of a packed vocabulary head."""

    def __init__(self, head: PackedMatrix):
        self.head = head

    def forward(self, ids: ArrayLike) -> Tensor:
        ids = np.asarray(ids)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.head.N):
            raise IndexError(f"ids from {ids.min()} to {ids.max()}, and the vocabulary has {self.head.N}")
        return Tensor(columns(self.head, ids.ravel()).reshape(*ids.shape, self.head.K))


class PackedGPT(GPT):
    """A GPT with packed matrices: it computes hidden states and logits, and can't be trained or saved.

    format      of the matrices, one of ``kernels.packed.FORMATS``. Layer norms, biases and positions stay float32
    """

    def __init__(self, model: GPT, format: str):
        self._declare(model.config, np.dtype(np.float32))
        self.format = format
        self.head = pack(model.lm_head_weight.data.T, format)
        for block, packed in zip(model.h, self.h, strict=True):
            packed.ln_1, packed.ln_2 = block.ln_1, block.ln_2
            packed.attn.c_attn = PackedLinear(block.attn.c_attn, format)
            packed.attn.c_proj = PackedLinear(block.attn.c_proj, format)
            packed.mlp.c_fc = PackedLinear(block.mlp.c_fc, format)
            packed.mlp.c_proj = PackedLinear(block.mlp.c_proj, format)
        self.ln_f = model.ln_f
        if format == "f32":
            self.wte = model.wte
        else:
            tied = model.config.tie_weights
            self.wte = PackedEmbedding(self.head if tied else pack(model.wte.weight.data.T, format))
        if model.config.position == "learned":
            self.wpe = model.wpe

    @property
    def lm_head_weight(self) -> Tensor:
        """(V, C), unpacked anew each time."""
        return Tensor(unpack(self.head).T)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., C) -> (..., V)"""
        rows = hidden.data.reshape(-1, self.head.K)
        return Tensor(kernels.packed_matmul(rows, self.head).reshape(*hidden.shape[:-1], -1))

    def named_matrices(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of what is packed: the matrices' weights and scales."""
        matrices = {"head": self.head}
        for i, block in enumerate(self.h):
            parts = {"attn.c_attn": block.attn.c_attn, "attn.c_proj": block.attn.c_proj}
            parts |= {"mlp.c_fc": block.mlp.c_fc, "mlp.c_proj": block.mlp.c_proj}
            matrices |= {f"h.{i}.{name}": linear.matrix for name, linear in parts.items()}
        for name, matrix in matrices.items():
            yield f"{name}.packed", matrix.weights
            if matrix.scales is not None:
                yield f"{name}.scales", matrix.scales

    def decode_weights(self) -> DecodeWeights:
        """The same weights as ``kernels.decode_step`` reads them."""
        layers = [
            LayerWeights(
                _norm(block.ln_1), _linear(block.attn.c_attn), _linear(block.attn.c_proj),
                _norm(block.ln_2), _linear(block.mlp.c_fc), _linear(block.mlp.c_proj), block.attn.scale,
            )
            for block in self.h
        ]  # fmt: skip
        config = self.config
        return DecodeWeights(
            layers, _norm(self.ln_f), self.head, config.n_head, config.activation, config.layer_norm_epsilon
        )


def _norm(norm: LayerNorm) -> LayerNormWeights:
    weight = np.ascontiguousarray(norm.weight.data)
    bias = np.zeros_like(weight) if norm.bias is None else np.ascontiguousarray(norm.bias.data)
    return LayerNormWeights(weight, bias)


def _linear(linear: PackedLinear) -> LinearWeights:
    return LinearWeights(linear.matrix, None if linear.bias is None else np.ascontiguousarray(linear.bias.data))
