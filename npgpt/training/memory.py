"""The memory that a run takes, worked out before it trains; and what of the machine's there is."""

import sys
from pathlib import Path

from npgpt.adapters import frozen
from npgpt.adapters.quantized import QuantizedGPT
from npgpt.gpt import GPT
from npgpt.layers import Block
from npgpt.ops.linear_cross_entropy import ROWS

KERNELS = 40 << 20  # bytes of compiled code and what it keeps


def model_bytes(model: GPT) -> int:
    """The memory of a model's parameters, frozen matrices in few bits too; of ``GPT.empty``, what it would take."""
    few_bits = model.matrices() if isinstance(model, QuantizedGPT) else ()
    return sum(p.data.nbytes for p in model.parameters()) + sum(matrix.nbytes for matrix in few_bits)


def process_bytes(model: GPT, sequences: int, context: int, accumulates: bool) -> int:
    """The most memory that training steps add to that of a process with the model and its moments.

    That is the arrays of a step, and twice those of a chunk's logits: freed, they leave a hole in which smaller arrays
    settle, so that the next ones go elsewhere. And the kernels' code is loaded in the first step.
    """
    return step_bytes(model, sequences, context, accumulates, chunks=2) + KERNELS


def step_bytes(model: GPT, sequences: int, context: int, accumulates: bool, chunks: int = 1) -> int:
    """The most memory that a step's arrays take at once, in bytes, besides weights and moments.

    With R = sequences * context positions, C channels, I inside the MLP, V ids, a block of which all is trained keeps
    for its backward pass

        x, ln_1(x), qkv 3, attention, x + attention, ln_2        8 R C
        c_fc, its activation                                     2 R I

    and with ``model.recompute`` only x. Of a frozen matrix the input isn't kept; and a block keeps nothing if no
    gradient goes into it, that is if nothing in it, or before it, is trained. A step holds the most in one of three
    moments: at the loss, when all blocks have kept theirs, with the logits of a chunk of rows (``chunks`` of them), the
    head's gradient V C and the gradients of the last layer norm's input and output; in the backward pass of the last
    block's MLP; or at the end, when all gradients are there and one block's activations still are. Batches that are
    accumulated meet the gradients of those before at the loss.
    """
    c, head = model.config, None if isinstance(model, QuantizedGPT) else model.lm_head_weight
    R, C, I, V = sequences * context, c.n_embd, c.inner_size, c.vocab_size
    needed = any(p.requires_grad for module in (model.wte, *_positions(model)) for p in module.parameters())
    blocks = []
    for block in model.h:
        needed = needed or bool(block.trainable_parameters())
        if needed:
            blocks.append(R * _kept(block, C, I))
    block = max(blocks, default=0)
    kept = R * C * len(blocks) + block if model.recompute else sum(blocks)
    gradients = sum(p.size for p in model.trainable_parameters())
    logits = chunks * min(R, ROWS if head is not None else frozen.ROWS) * V
    of_head = V * C if head is not None and head.requires_grad else 0
    at_the_loss = kept + of_head + max(logits + 4 * R * C, R * (3 * C + 2 * I)) + (gradients if accumulates else 0)
    at_the_end = gradients + block + R * (3 * C + I)
    return model.ln_f.weight.dtype.itemsize * max(at_the_loss, at_the_end)


def _kept(block: Block, C: int, inner: int) -> int:
    """The floats that a block keeps of each token for its backward pass.

    Whatever is trained: the inputs of both layer norms (C each), queries, keys and values (3 C) and the input of the
    activation function. For each matrix that is trained, or has an adapter: its input.
    """
    inputs = (block.attn.c_attn, C), (block.attn.c_proj, C), (block.mlp.c_fc, C), (block.mlp.c_proj, inner)
    trained = sum(width for layer, width in inputs if any(p.requires_grad and p.ndim == 2 for p in layer.parameters()))
    return 5 * C + inner + trained


def _positions(model):
    return [model.wpe] if model.config.position == "learned" else []


def resident_bytes() -> int:
    """The memory of this process now; 200 MB, what Python and imports take, where the system doesn't tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 200 << 20
    import resource

    return pages * resource.getpagesize()


def available_bytes() -> int:
    """The memory that processes can still take; more than there is where the system doesn't tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return sys.maxsize
