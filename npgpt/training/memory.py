"""How much of its model a run trains, and what memory a step takes if that is not all of it."""

from npgpt.adapters import frozen
from npgpt.adapters.quantized import QuantizedGPT
from npgpt.gpt import GPT
from npgpt.layers import Block
from npgpt.ops.linear_cross_entropy import ROWS
from npgpt.training.estimate import parameters
from npgpt.training.trainable import StoredModel


def partial_step_bytes(model: GPT, batch_size: int, context: int) -> int:
    """The most memory that a training step holds besides weights and moments, where some of the model is frozen.

    ``estimate.step_bytes`` is that of a whole model. A block keeps activations for its backward pass if a gradient goes
    into it: if something in it, or before it, is trained. With ``recompute`` it keeps its input alone.
    """
    gradients = sum(p.data.nbytes for p in model.trainable_parameters())
    c, rows, size = model.config, batch_size * context, model.ln_f.weight.dtype.itemsize
    needed = [any(p.requires_grad for p in [*model.wte.parameters(), *_positions(model)])]
    for block in model.h:
        needed.append(needed[-1] or bool(block.trainable_parameters()))
    widths = [_kept(block, c.n_embd, c.inner_size) for block, need in zip(model.h, needed[1:], strict=True) if need]
    passing = c.n_embd + 2 * c.inner_size  # dx, and dy and dx of the activation function, on their way back
    if model.recompute:
        kept, passing = c.n_embd * len(widths), passing + max(widths, default=0)
    else:
        kept = sum(widths)
    logits = min(rows, frozen.ROWS if isinstance(model, QuantizedGPT) else ROWS) * c.vocab_size
    most = rows * (kept + 2 * c.n_embd) + max(logits, rows * passing)
    return gradients + most * size


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
    c, total = stored.config, parameters(stored.config)
    trained = sum(p.size for p in stored.model.trainable_parameters())
    lines = [f"model: {total:,} parameters: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide"]
    if stored.adapter is not None:
        held = "frozen, in NF4 and bfloat16" if stored.adapter.base_format == "nf4" else "frozen"
        beside = f"an adapter of rank {stored.adapter.config.rank} beside {len(stored.adapter.matrices)} layers"
        lines.append(f"       {held}; {beside}")
    if trained != total:
        lines.append(f"       {trained:,} parameters are trained, {trained / total:.2%} of that number")
    return "\n".join(lines)
