"""What goes on inside a model while it is trained: sizes of gradients, weights and activations, layer by layer, and the
loss of each token of a passage. Nothing here changes what a step computes.
"""

import math
from typing import Any

import numpy as np

from npgpt import kernels
from npgpt.errors import TrainingDiverged
from npgpt.gpt import GPT
from npgpt.hooks import forward_hook
from npgpt.scoring.losses import logit_blocks, token_losses
from npgpt.text.batches import IGNORED
from npgpt.text.tokenizers import Tokenizer

PASSAGE = 256  # tokens; more can't be read at a glance


class Inspection:
    """The model's inside, as lines for metrics.jsonl.

    batch   ids (B, T), targets (B, T), always the same; the beginning of its first row is the passage
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, batch: tuple[np.ndarray, np.ndarray]):
        self.model = model
        self.ids, self.targets = (array[:1, :PASSAGE] for array in batch)
        decoder = tokenizer.decoder()
        shown = [*self.ids[0].tolist(), int(self.targets[0, -1])]
        self.pieces = ["" if id == IGNORED else decoder.decode(id) for id in shown]

    def sizes(self) -> dict[str, dict[str, float]]:
        """The norm of each layer's gradient before clipping, and the root mean square of its matrices, after a step.

        The layers are wte, wpe, h.0, h.1 and so on, ln_f, which has no matrix. A frozen one has no gradient. Squares of
        the norms add up to the square of the whole gradient's norm.
        """
        layers: dict[str, list] = {}
        for name, p in self.model.named_parameters():
            layers.setdefault(_layer(name), []).append(p)
        squares = {
            layer: kernels.sum_of_squares([p.grad for p in ps if p.grad is not None])
            for layer, ps in layers.items()
            if any(p.grad is not None for p in ps)
        }
        matrices = {layer: [p.data for p in ps if p.ndim == 2] for layer, ps in layers.items()}
        return {
            "gradient": _rounded({layer: math.sqrt(square) for layer, square in squares.items()}),
            "weight": _rounded({layer: _rms(arrays) for layer, arrays in matrices.items() if arrays}),
        }

    def passage(self, step: int) -> dict[str, Any]:
        """The loss of each token of the passage, and the root mean square of activations on the way there.

        Of T tokens, T + 1 pieces of text and T losses: one for each but the first piece, None where it doesn't count.
        Activations are those of the residual stream after the embedding ("drop") and after each block ("h.0"), and of
        what is added to it ("h.0.attn", "h.0.mlp"). Raises TrainingDiverged if a loss is not finite.
        """
        rms = {}

        def see(name, y):
            if name == "drop" or (name.startswith("h.") and name.split(".", 2)[2:] in ([], ["attn"], ["mlp"])):
                rms[name] = _rms([y.data])

        targets, losses = self.targets[0], []
        try:
            with forward_hook(self.model, see):
                for logits in logit_blocks(self.model, self.ids, np.arange(len(targets))):
                    block = targets[len(losses) : len(losses) + len(logits)]
                    found = token_losses(logits, block)[0].tolist()
                    losses += [
                        None if t == IGNORED else round(loss, 4) for loss, t in zip(found, block.tolist(), strict=True)
                    ]
        except FloatingPointError:
            raise TrainingDiverged(f"after step {step}: the loss of a passage is not finite") from None
        return {"pieces": self.pieces, "losses": losses, "activation": _rounded(rms)}


def _layer(name):
    """h.0 of h.0.attn.c_attn.weight, wte of wte.weight"""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdecimal() else first


def _rms(arrays):
    return math.sqrt(kernels.sum_of_squares(arrays) / sum(array.size for array in arrays))


def _rounded(values):
    """Five digits, and what JSON has no word for left out."""
    return {name: float(f"{value:.5g}") for name, value in values.items() if math.isfinite(value)}
