"""What a run is about to train, and the memory that it will take, worked out from the shapes before it begins."""

from dataclasses import dataclass

from npgpt.adapters.quantized import QuantizedGPT
from npgpt.gpt import GPT, parameter_shapes
from npgpt.layers import Block
from npgpt.training.trainable import StoredModel

HEAD_ROWS = {False: 384, True: 128}  # of logits at a time: ops/linear_cross_entropy.py; adapters/frozen.py


@dataclass(frozen=True)
class Memory:
    """Bytes of a run's arrays. Python, NumPy and compiled kernels beneath take some 200 MB more."""

    weights: int
    training: int  # gradients, and AdamW's two moments
    activations: int  # the most that a training step has at once

    @property
    def total(self) -> int:
        return self.weights + self.training + self.activations


def memory_of(model: GPT, batch_size: int, context: int) -> Memory:
    """The memory of training steps on batches of ``batch_size`` sequences of ``context`` tokens."""
    weights = sum(p.data.nbytes for p in model.parameters())
    is_quantized = isinstance(model, QuantizedGPT)
    if isinstance(model, QuantizedGPT):
        weights += sum(matrix.nbytes for matrix in model.matrices())
    trained = sum(p.data.nbytes for p in model.trainable_parameters())
    c, rows, size = model.config, batch_size * context, model.ln_f.weight.dtype.itemsize
    # A block's activations are kept if a gradient goes into it: if something in it or before it is trained.
    needed = [any(p.requires_grad for p in [*model.wte.parameters(), *_positions(model)])]
    for block in model.h:
        needed.append(needed[-1] or bool(block.trainable_parameters()))
    widths = [_kept(block, c.n_embd, c.inner_size) for block, need in zip(model.h, needed[1:], strict=True) if need]
    passing = c.n_embd + 2 * c.inner_size  # dx, and dy and dx of the activation function, on their way back
    if model.recompute:
        kept, passing = c.n_embd * len(widths), passing + max(widths, default=0)
    else:
        kept = sum(widths)
    logits = min(rows, HEAD_ROWS[is_quantized]) * c.vocab_size
    most = rows * (kept + 2 * c.n_embd) + max(logits, rows * passing)
    return Memory(weights, 3 * trained, most * size)


def _kept(block: Block, C: int, inner: int) -> int:
    """The floats that a block keeps of each token for its backward pass.

    Whatever is trained: the inputs of both layer norms (C each), queries, keys and values (3 C) and the input of the
    activation function. For each matrix that is trained, or has an adapter: its input.
    """
    inputs = (block.attn.c_attn, C), (block.attn.c_proj, C), (block.mlp.c_fc, C), (block.mlp.c_proj, inner)
    trained = sum(width for layer, width in inputs if any(p.requires_grad and p.ndim == 2 for p in layer.parameters()))
    return 5 * C + inner + trained


def _positions(model: GPT) -> list:
    return model.wpe.parameters() if model.config.position == "learned" else []


def describe_model(stored: StoredModel) -> str:
    """Lines for the log: how many parameters there are, and how many are trained."""
    c, total = stored.config, _total(stored)
    trained = sum(p.size for p in stored.model.trainable_parameters())
    lines = [f"model: {total:,} parameters: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide"]
    if stored.adapter is not None:
        held = "frozen, in NF4 and bfloat16" if stored.adapter.base_format == "nf4" else "frozen"
        beside = f"an adapter of rank {stored.adapter.config.rank} beside {len(stored.adapter.matrices)} layers"
        lines.append(f"       {held}; {beside}")
    if trained != total:
        lines.append(f"       {trained:,} parameters are trained, {trained / total:.2%} of that number")
    return "\n".join(lines)


def describe_memory(model: GPT, batch_size: int, context: int) -> str:
    """A line for the log: the memory that a run takes, and what for."""
    memory = memory_of(model, batch_size, context)
    mb = [f"{x / 1e6:,.1f} MB" for x in (memory.weights, memory.training, memory.activations)]
    return f"memory: weights {mb[0]}, gradients and moments {mb[1]}, activations up to {mb[2]}"


def _total(stored: StoredModel) -> int:
    """The number of the model's own parameters, those in few bits too, without an adapter's."""
    shapes = parameter_shapes(stored.config).values()
    return sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes)
