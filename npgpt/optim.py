"""AdamW, gradient clipping, and the learning rate's course."""

import math

import numpy as np

from npgpt import kernels
from npgpt.tensor import Tensor


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); kernels/adamw.py has the formulas.

    Decays matrices and embeddings, and not biases and layer norms, which have one dimension: they don't let a network
    overfit, and pulling a layer norm's weight towards 0 would only shrink its output.

    ``lr`` may be set before each step. A parameter without a gradient is left alone.
    """

    def __init__(self, named_parameters, lr=3e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.parameters = dict(named_parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self.mean = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.mean_square = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}

    def step(self) -> None:
        """Change the parameters by their gradients."""
        self.steps += 1
        changed = {name: p for name, p in self.parameters.items() if p.grad is not None}
        kernels.adamw_step(
            [p.data for p in changed.values()],
            [p.grad for p in changed.values()],
            [self.mean[name] for name in changed],
            [self.mean_square[name] for name in changed],
            *(self.lr, *self.betas, self.eps),
            [self.weight_decay if p.ndim >= 2 else 0.0 for p in changed.values()],
            self.steps,
        )

    def zero_grad(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """{"mean.NAME": array, "mean_square.NAME": array}, the arrays themselves; ``steps`` is the rest of it."""
        moments = {"mean": self.mean, "mean_square": self.mean_square}
        return {f"{kind}.{name}": array for kind, arrays in moments.items() for name, array in arrays.items()}

    def load_state_dict(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        """The inverse of ``state_dict``. Raises ValueError if names or shapes are others."""
        own = self.state_dict()
        if own.keys() != arrays.keys():
            raise ValueError(f"optimizer state for other parameters: {sorted(own.keys() ^ arrays.keys())[:3]}")
        for name, array in own.items():
            if array.shape != arrays[name].shape:
                raise ValueError(f"optimizer state {name} has shape {arrays[name].shape}, and must have {array.shape}")
        for name, array in own.items():
            array[...] = arrays[name]
        self.steps = steps


def clip_grad_norm(parameters: list[Tensor], max_norm: float) -> float:
    """Scale all gradients together so that their norm, taken as one long vector, is at most ``max_norm``.

    Returns the norm before (Pascanu, Mikolov & Bengio 2013). A norm that is NaN or infinite leaves them as they are.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(kernels.sum_of_squares(gradients))
    if math.isfinite(norm) and norm > max_norm:
        kernels.scale(gradients, max_norm / norm)
    return norm


def warmup_cosine(step: int, lr: float, min_lr: float, warmup: int, max_steps: int) -> float:
    """The learning rate of ``step``, counted from 0: a straight line up to ``lr`` over ``warmup`` steps, then half a
    cosine down to ``min_lr`` at ``max_steps`` (Loshchilov & Hutter 2017, without restarts)."""
    if step < warmup:
        return lr * (step + 1) / warmup
    if step >= max_steps:
        return min_lr
    progress = (step - warmup) / max(1, max_steps - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
