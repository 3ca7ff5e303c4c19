"""What the story shows beside the operations: what each layer would predict, a step of AdamW.

Everything is computed from the arrays of the trace, by the model's own code where there is one.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.gpt import GPT
from npgpt.optim import AdamW
from npgpt.teaching.trace import Operation, Trace
from npgpt.tensor import Tensor, no_grad
from npgpt.text.batches import IGNORED

TOP = 8  # of the likeliest tokens at a position
LENS = 3  # of the likeliest tokens of a layer


def probabilities(model: GPT, stream: np.ndarray) -> np.ndarray:
    """What the model would predict if the residual stream (T, C) ended here: the logit lens (nostalgebraist 2020)."""
    with no_grad():
        return kernels.softmax_forward(model.logits(model.ln_f(Tensor(stream))).data)


def stages(trace: Trace) -> list[tuple[str, Operation]]:
    """(name, the addition that gave it) of the residual stream: the embedding, and each block's two additions."""
    additions = [o for o in trace.operations if o.name == "add"]
    blocks = [o for o in additions if o.path.startswith("h.")]
    first = next((o for o in additions if o.path == ""), trace.operations[0])  # rotary positions are not added
    return [("embedding", first), *((f"{o.path} {('attention', 'mlp')[i % 2]}", o) for i, o in enumerate(blocks))]


def lens(model: GPT, trace: Trace) -> list[dict[str, Any]]:
    """For each stage of the stream and each position: the likeliest tokens, and those that rose most since before."""
    found, before = [], None
    for name, operation in stages(trace):
        P = probabilities(model, operation.result.data.reshape(-1, model.config.n_embd))
        rise = np.zeros_like(P) if before is None else P - before
        found.append({
            "name": name, "operation": operation.index,
            "top": [_likeliest(row, row, LENS) for row in P],
            "rose": [_likeliest(change, row, LENS) for change, row in zip(rise, P, strict=True)] if found else [],
        })  # fmt: skip
        before = P
    return found


def predictions(logits: np.ndarray, targets: np.ndarray) -> list[dict[str, Any]]:
    """At each position the likeliest tokens; and of the target its probability and loss, unless there is none."""
    P = kernels.softmax_forward(logits)
    losses, _, _ = kernels.cross_entropy_forward(logits, targets, IGNORED)
    return [
        {
            "top": _likeliest(P[t], P[t], TOP),
            "target": None if target < 0 else [int(target), float(P[t, target]), float(losses[t])],
        }
        for t, target in enumerate(targets)
    ]


def _likeliest(keys, P, count):
    """[[id, key, probability], ...] of the largest keys; of equal ones the first."""
    order = np.argsort(-keys, kind="stable")[:count]
    return [[int(i), float(keys[i]), float(P[i])] for i in order]


def adamw_step(model: GPT, ids: ArrayLike, targets: ArrayLike, name: str, index: tuple[int, ...]) -> dict[str, Any]:
    """The first step of AdamW on the gradients that the model has, seen at one element. The model is changed by it."""
    with no_grad():
        loss_before = model.loss(ids, targets).item()
    optimizer = AdamW(model.named_parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    p = dict(model.named_parameters())[name]
    before, g = float(p.data[index]), float(p.grad[index])  # type: ignore[index]
    optimizer.step()
    with no_grad():
        loss_after = model.loss(ids, targets).item()
    return {
        "parameter": name, "index": list(index), "lr": optimizer.lr, "betas": list(optimizer.betas),
        "eps": optimizer.eps, "weight_decay": optimizer.weight_decay if p.ndim >= 2 else 0.0, "before": before, "g": g,
        "m": float(optimizer.exp_avg[name][index]), "v": float(optimizer.exp_avg_sq[name][index]),
        "after": float(p.data[index]), "loss_before": loss_before, "loss_after": loss_after,
    }  # fmt: skip
