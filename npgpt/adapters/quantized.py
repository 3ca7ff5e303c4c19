"""A GPT to put adapters beside, in a quarter of the memory: QLoRA's base (Dettmers et al. 2023).

    the blocks' matrices            NF4 with double quantisation (kernels/few_bits.py)
    token embedding and head        bfloat16, the precision that QLoRA leaves them in
    positions, biases, layer norms  float32

Gradients pass through all of it, and none of it is trained.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npgpt.adapters.frozen import frozen_linear, frozen_linear_cross_entropy
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.names import listed
from npgpt.errors import CheckpointError
from npgpt.gpt import GPT
from npgpt.kernels.few_bits import BF16Matrix, FewBits, to_bf16, to_nf4
from npgpt.layers import Linear, Module, allocate
from npgpt.ops.embedding import check_ids
from npgpt.tensor import Tensor


class FrozenLinear(Module):
    """y = x W + b, W (in, out) in few bits.   bias (out,) or None"""

    def __init__(self, matrix: FewBits, bias: Tensor | None):
        self.matrix, self.bias = matrix, bias

    def forward(self, x: Tensor) -> Tensor:
        return frozen_linear(x, self.matrix, self.bias)

    @property
    def weight(self) -> Tensor:
        """W in float32, made anew."""
        return Tensor(self.matrix.rows())


class FrozenEmbedding(Module):
    """A table of rows in bfloat16: ids (...) -> (..., C) of ``dtype``."""

    def __init__(self, table: BF16Matrix, dtype: np.dtype):
        self.table, self.dtype = table, dtype

    def forward(self, ids: ArrayLike) -> Tensor:
        ids = np.asarray(ids)
        check_ids(ids, self.table.shape[0])
        rows = BF16Matrix((ids.size, self.table.shape[1]), self.table.codes[ids.reshape(-1)]).rows()
        return Tensor(rows.reshape(*ids.shape, -1).astype(self.dtype, copy=False))

    @property
    def weight(self) -> Tensor:
        """The table in float32, made anew."""
        return Tensor(self.table.rows())


class QuantizedGPT(GPT):
    """A GPT whose matrices are in few bits, made by ``load_quantized``. Adapters are trained beside it."""

    wte: FrozenEmbedding  # type: ignore[assignment]
    lm_head: FrozenEmbedding  # type: ignore[assignment]

    @property
    def head(self) -> BF16Matrix:
        """The vocabulary head's matrix (V, C)."""
        return self.wte.table if self.config.tie_weights else self.lm_head.table

    def matrices(self) -> Iterator[FewBits]:
        """All that are in few bits."""
        yield self.wte.table
        if not self.config.tie_weights:
            yield self.lm_head.table
        for block in self.h:
            for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                yield getattr(layer, "base", layer).matrix  # of one with an adapter, the layer beneath

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., C) -> (..., V)"""
        return frozen_linear(hidden, self.head, transposed=True)

    def loss(self, ids: ArrayLike, targets: ArrayLike, padding_mask: np.ndarray | None = None) -> Tensor:
        """As ``GPT.loss``."""
        return frozen_linear_cross_entropy(self.hidden_states(ids, padding_mask), self.head, targets)


def load_quantized(checkpoint: Checkpoint, dtype: DTypeLike = np.float32) -> QuantizedGPT:
    """The model of a checkpoint, its matrices put into few bits one after the other, a few rows at a time.

    So no more than a piece of one matrix is in memory as float32 (all of it, if the file has it the other way round).
    Raises CheckpointError if an element is not finite.

    dtype   of everything that is not in few bits, and so of what is computed: float64 for checking
    """
    model = cast(QuantizedGPT, QuantizedGPT.empty(checkpoint.config, dtype))
    tensors, bad = checkpoint.streaming(), []

    def in_few_bits(name, to):
        try:
            return to(_rows(tensors[name]), tensors[name].shape)
        except ValueError:
            bad.append(name)

    for i, block in enumerate(model.h):
        for part in ("attn", "mlp"):
            module = getattr(block, part)
            for name, linear in [child for child in module.children() if isinstance(child[1], Linear)]:
                matrix = in_few_bits(f"h.{i}.{part}.{name}.weight", to_nf4)
                setattr(module, name, FrozenLinear(matrix, linear.bias))
    model.wte = FrozenEmbedding(in_few_bits("wte.weight", to_bf16), np.dtype(dtype))
    if not checkpoint.config.tie_weights:
        model.lm_head = FrozenEmbedding(in_few_bits("lm_head.weight", to_bf16), np.dtype(dtype))
    bad += [name for name, p in model.named_parameters() if not tensors[name].copy_to(allocate(p))]
    checkpoint.release_pages()
    if bad:
        raise CheckpointError(f"{checkpoint.source}: NaN or infinity in {listed(bad)}")
    for p in model.parameters():
        p.requires_grad = False
    return model


def as_quantized(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint as ``load_quantized`` holds them: rounded to NF4 and bfloat16, and float32 again.

    A matrix is put into few bits when one of its rows is first read.
    """
    found = dict(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        place = f"{checkpoint.source}: tensor {name}"
        if name in ("wte.weight", "lm_head.weight"):
            found[name] = _through(to_bf16, tensor, place)
        elif len(tensor.shape) == 2 and name.startswith("h."):
            found[name] = _through(to_nf4, tensor, place)
    return found


def _through(to, tensor, place):
    matrix = None

    def read_rows(first, last):
        nonlocal matrix
        if matrix is None:
            try:
                matrix = to(_rows(tensor), tensor.shape)
            except ValueError as error:
                raise CheckpointError(f"{place}: {error}") from None
        return matrix.rows(first, last)

    return LazyTensor(tensor.shape, "F32", read_rows)


def _rows(tensor: LazyTensor) -> Iterator[np.ndarray]:
    return (part.astype(np.float32, copy=False) for part in tensor.iter_flat())
