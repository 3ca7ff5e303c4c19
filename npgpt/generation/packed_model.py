"""A model whose matrices are packed for generating (kernels/packed.py): float32, or in 16, 8 or 4 bits."""

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.errors import ConfigError
from npgpt.generation.changed_part import changed_part
from npgpt.gpt import GPT
from npgpt.kernels.decode_weights import DecodeWeights, LayerNormWeights, LayerWeights, LinearWeights
from npgpt.kernels.matmul import MAX_FEW_ROWS, MAX_SMALL_PRODUCT
from npgpt.kernels.packed import PackedMatrix, columns, pack, unpack
from npgpt.layers import LayerNorm, Module
from npgpt.ops.embedding import check_ids
from npgpt.tensor import Tensor

MAX_PACKED_ROWS = 48  # for more it takes less time to unpack a matrix for the product than to work on packed panels


class PackedLinear(Module):
    """y = x W + b without a backward pass.   W packed

    In float32, W itself stays beside it, for products of many rows; it is packed when ``matrix`` is first asked for.
    A row gives the same beside others as alone, unless large products are to be less exact (``set_matmul_precision``)
    or so small that NumPy computes them. So int8 and int4, which round x, do it for any number of rows.
    """

    def __init__(self, W: np.ndarray, bias: Tensor | None, format: str):
        self.plain = W if format == "f32" else None
        if self.plain is None:
            self.matrix = pack(W, format)
        self.bias = bias

    @cached_property
    def matrix(self) -> PackedMatrix:
        return pack(self.plain, "f32")

    def kept(self) -> list[np.ndarray]:
        """The arrays that hold W: the plain one, or weights and scales."""
        if self.plain is not None:
            return [self.plain]
        return _arrays(self.matrix)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.data.reshape(-1, x.shape[-1])
        bias = None if self.bias is None else self.bias.data
        if self.plain is not None and ("matrix" not in vars(self) or len(rows) > MAX_PACKED_ROWS):
            y = _matmul(rows, self.plain, bias)
        elif self.matrix.format == "bf16" and len(rows) > MAX_PACKED_ROWS:
            y = kernels.matmul(rows, unpack(self.matrix), bias)
        else:
            y = kernels.packed_matmul(rows, self.matrix, bias)
        return Tensor(y.reshape(*x.shape[:-1], -1))


def _matmul(x, W, bias=None):
    """x W + bias, added up in the order of the packed product.

    ``matmul`` has another order for few rows and for small products, so more rows are put below x.
    """
    rows = max(MAX_FEW_ROWS, MAX_SMALL_PRODUCT // max(W.size, 1)) + 1
    if len(x) >= rows:
        return kernels.matmul(x, W, bias)
    padded = np.zeros((rows, x.shape[1]), x.dtype)
    padded[: len(x)] = x
    return kernels.matmul(padded, W, bias)[: len(x)]


class PackedEmbedding(Module):
    """ids (...) -> (..., C): columns of a packed vocabulary head."""

    def __init__(self, head: PackedMatrix):
        self.head = head

    def forward(self, ids: ArrayLike) -> Tensor:
        ids = np.asarray(ids)
        check_ids(ids, self.head.N)
        return Tensor(columns(self.head, ids.ravel()).reshape(*ids.shape, self.head.K))


class PackedGPT(GPT):
    """A GPT with packed matrices: it computes hidden states and logits, and can't be trained or saved.

    format      of the matrices, one of ``kernels.packed.FORMATS``. Layer norms, biases and positions stay float32. With
                "f32" the matrices are the model's own until they are packed: it must not be trained meanwhile

    It computes what the config says. Raises ConfigError if the model was changed in code, or a matrix has a number that
    the format can't hold.
    """

    def __init__(self, model: GPT, format: str):
        if (part := changed_part(model)) is not None:
            raise ConfigError(
                f"{part} was changed in code, and weights in {format} compute only what the config says:\n"
                "model.generate(...) computes the change too, in float32"
            )
        self._declare(model.config, np.dtype(np.float32))
        self.format = format
        self.head = _packed("lm_head", model.lm_head_weight.data.T, None, format)
        for i, (block, packed) in enumerate(zip(model.h, self.h, strict=True)):
            packed.ln_1, packed.ln_2 = copy.deepcopy(block.ln_1), copy.deepcopy(block.ln_2)
            for part, linear in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
                plain = getattr(getattr(block, part), linear)
                matrix = _packed(f"h.{i}.{part}.{linear}", plain.weight.data, copy.deepcopy(plain.bias), format)
                setattr(getattr(packed, part), linear, matrix)
        self.ln_f = copy.deepcopy(model.ln_f)
        if not model.config.tie_weights:
            del self.lm_head  # it is ``head``
        if format == "f32":
            self.wte = model.wte
        elif model.config.tie_weights:
            self.wte = PackedEmbedding(self.head.matrix)
        else:
            self.wte = PackedEmbedding(_packed("wte", model.wte.weight.data.T, None, format).matrix)
        if model.config.position == "learned":
            self.wpe = copy.deepcopy(model.wpe)

    def loss(self, *inputs: Any, **named: Any) -> Tensor:
        """Raises RuntimeError: packed weights have no gradients."""
        raise RuntimeError("packed weights have no gradients: compute the loss with the model that they were made of")

    def quantize(self, weights: str, cache_dtype: str = "f32") -> Any:
        """Raises RuntimeError: they are packed."""
        raise RuntimeError("these weights are packed: quantize the model that they were made of")

    @property
    def lm_head_weight(self) -> Tensor:
        """(V, C); if it isn't float32, unpacked anew each time."""
        return Tensor((unpack(self.head.matrix) if self.head.plain is None else self.head.plain).T)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., C) -> (..., V)"""
        return self.head(hidden)

    def named_matrices(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of the matrices as they are kept."""
        linears = [("head", self.head)]
        for i, block in enumerate(self.h):
            for name, part in (("attn", block.attn), ("mlp", block.mlp)):
                linears += [(f"h.{i}.{name}.{n}", x) for n, x in part.children() if isinstance(x, PackedLinear)]
        if isinstance(self.wte, PackedEmbedding) and not self.config.tie_weights:
            yield from ((f"wte.{i}", array) for i, array in enumerate(_arrays(self.wte.head)))
        for name, linear in linears:
            yield from ((f"{name}.{i}", array) for i, array in enumerate(linear.kept()))

    def decode_weights(self) -> DecodeWeights:
        """The same weights as ``kernels.decode_step`` reads them; float32 is packed now."""
        layers = [
            LayerWeights(
                _norm(block.ln_1), _linear(block.attn.c_attn), _linear(block.attn.c_proj),
                _norm(block.ln_2), _linear(block.mlp.c_fc), _linear(block.mlp.c_proj), block.attn.scale,
            )
            for block in self.h
        ]  # fmt: skip
        config = self.config
        return DecodeWeights(
            layers, _norm(self.ln_f), self.head.matrix, config.n_head, config.activation, config.layer_norm_epsilon
        )


def _arrays(matrix: PackedMatrix) -> list[np.ndarray]:
    return [matrix.weights, *([] if matrix.scales is None else [matrix.scales])]


def _packed(name, W, bias, format) -> PackedLinear:
    try:
        return PackedLinear(W, bias, format)
    except ValueError as error:
        raise ConfigError(f"{name}'s weights can't be in {format}: {error}") from None


def _norm(norm: LayerNorm) -> LayerNormWeights:
    weight = np.ascontiguousarray(norm.weight.data)
    bias = np.zeros_like(weight) if norm.bias is None else np.ascontiguousarray(norm.bias.data)
    return LayerNormWeights(weight, bias)


def _linear(linear: PackedLinear) -> LinearWeights:
    return LinearWeights(linear.matrix, None if linear.bias is None else np.ascontiguousarray(linear.bias.data))
