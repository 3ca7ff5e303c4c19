"""From a format's names to ours and back, by a table that the format's own file shows:

    NAMES = (
        ("blk.{}.attn_qkv.weight", "h.{}.attn.c_attn.weight", TRANSPOSED),
        ("blk.{}.attn_qkv.bias", "h.{}.attn.c_attn.bias"),
        ...

{} is the layer's number. TRANSPOSED: the format has this matrix as (out, in), and we as (in, out). In all of GPT-2's
formats the queries, keys and values lie side by side in one matrix, in this order, along its output axis.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.errors import CheckpointError

TRANSPOSED = "transposed"
# Those of the released GPT-2, in the model's order.
GPT2_NAMES = (
    *("wte.weight", "wpe.weight"),
    *(
        f"h.{{}}.{part}.{kind}"
        for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ),
    *("ln_f.weight", "ln_f.bias"),
)
_OURS = ("wte.", "wpe.", "h.", "ln_f.", "lm_head.")


def short_name(name: str) -> str:
    """A stranger's name for a terminal: cut, and without what would move the cursor."""
    return name[:60] if name.isprintable() else repr(name[:60])


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first of some names for a message: strangers', so quoted and cut."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name[:100]) for name in names[:most]) + more


def to_ours(names: tuple, tensors: dict[str, LazyTensor], source: Path) -> dict[str, LazyTensor]:
    """Rename the tensors, and turn those that the table says. What the table doesn't have keeps its name.

    Raises CheckpointError if such a name would pass for one of ours, or a vector is to be transposed.
    """
    patterns = [
        (re.compile(re.escape(theirs).replace(r"\{\}", r"(0|[1-9]\d{0,5})"), re.ASCII), *row) for theirs, *row in names
    ]
    found = {}
    for name, tensor in tensors.items():
        ours = name
        for pattern, wanted, *transposed in patterns:
            match = pattern.fullmatch(name)
            if match:
                ours = wanted.format(*match.groups())
                if transposed and len(tensor.shape) != 2:
                    raise CheckpointError(f"{source}: tensor {name} must be a matrix, and has shape {tensor.shape}")
                tensor = tensor.T if transposed else tensor
                break
        else:
            if name.startswith(_OURS):
                raise CheckpointError(f"{source}: tensor {name[:200]!r} has npgpt's name for it, not the format's")
        found[ours] = tensor
    return found


def to_theirs(names: tuple, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The inverse of ``to_ours``, in the order of ``tensors``. Raises KeyError on one that the format doesn't have."""
    rows = {ours: (theirs, bool(transposed)) for theirs, ours, *transposed in names}
    found = {}
    for name, tensor in tensors.items():
        layer = re.match(r"h\.(\d+)\.", name)
        theirs, transposed = rows[name.replace(f"h.{layer[1]}.", "h.{}.", 1) if layer else name]
        found[theirs.format(*layer.groups()) if layer else theirs] = tensor.T if transposed else tensor
    return found
