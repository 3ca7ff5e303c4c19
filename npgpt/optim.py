"""AdamW and gradient clipping."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Real
from operator import index

import numpy as np

from npgpt import kernels
from npgpt.errors import ConfigError
from npgpt.kernels.machine.memory import keep_freed_memory
from npgpt.name_patterns import matching
from npgpt.tensor import Tensor


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); kernels/adamw.py has the formulas.

    Trains the parameters whose ``requires_grad`` is True when it is made. Each of them has two moments, the running
    means of its gradient (``exp_avg``) and of the gradient's square (``exp_avg_sq``). They begin at zero, and a step
    corrects for that by the number of steps so far, which is one number for all parameters. So a parameter can't join
    later: to train others, make a new AdamW. A step changes neither a parameter without a gradient nor its moments.

    Decays matrices and embeddings. Biases and layer norms, which have one dimension, are not decayed: they don't let a
    network overfit, and pulling a layer norm's weight towards 0 would only shrink its output.

    ``lr`` may be set before each step. ``lr_for`` gives parameters a rate of their own, by patterns of their names
    (name_patterns.py): {"wte": 1e-4} with lr=1e-3 means a tenth of whatever ``lr`` is set to. If several patterns cover
    a parameter, the last one counts.

    Making an AdamW also tells the C library to keep freed memory for this process (``keep_freed_memory``), which makes
    training steps faster.

    Raises ValueError on a number out of range, and on two parameters of one name or one parameter that is there twice;
    TypeError on parameters of two dtypes; ConfigError if a pattern covers nothing that is trained.

    >>> w = Tensor([[1.0, -1.0]], requires_grad=True)
    >>> optimizer = AdamW([("w", w)], lr=0.1, weight_decay=0.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()  # the first step moves each weight by lr against its gradient's sign
    >>> w.data
    array([[ 0.9, -0.9]], dtype=float32)
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        lr_for: Mapping[str, float] | None = None,
    ):
        keep_freed_memory()
        pairs = list(named_parameters)
        _check_pairs(pairs)
        are_decays = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        if not (are_decays and all(map(_is_finite_nonnegative, (lr, eps, weight_decay)))):
            given = f"lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}"
            raise ValueError(f"lr, eps and weight_decay must be 0 or more and finite, the two betas below 1: {given}")
        if lr == 0 and lr_for:
            raise ConfigError("lr_for is relative to lr, which can't be 0 then")
        named = dict(pairs)
        self.parameters = {name: p for name, p in named.items() if p.requires_grad}
        if len({p.dtype for p in self.parameters.values()}) > 1:
            raise TypeError("AdamW takes parameters of one dtype, float32 or float64")
        self._frozen = {name: p for name, p in named.items() if not p.requires_grad}
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self.lr_factors = dict.fromkeys(self.parameters, 1.0)
        for pattern, own in (lr_for or {}).items():
            if not _is_finite_nonnegative(own):
                raise ValueError(f"lr_for {pattern!r} must be 0 or more and finite, not {own}")
            covered = matching(self.parameters, pattern, "parameter that is trained")
            self.lr_factors |= dict.fromkeys(covered, own / lr)
        self.exp_avg = {name: np.zeros(p.shape, p.dtype) for name, p in self.parameters.items()}
        self.exp_avg_sq = {name: np.zeros(p.shape, p.dtype) for name, p in self.parameters.items()}

    def step(self, gradient_scale: float = 1.0) -> None:
        """Change the parameters by their gradients.

        gradient_scale      each gradient is multiplied by it as it is read, and stays as it is; see ``clip_scale``

        Raises ValueError, and changes nothing, if a parameter has no weights yet, was frozen or has another shape than
        before, or if ``lr`` or the scale is not a finite number.
        """
        changed = {name: p for name, p in self.parameters.items() if p.grad is not None}
        self._check_step(changed, gradient_scale)
        self.steps += 1
        for factor in dict.fromkeys(self.lr_factors.values()):
            group = {name: p for name, p in changed.items() if self.lr_factors[name] == factor}
            kernels.adamw_step(
                [p.data for p in group.values()],
                [p.grad for p in group.values()],
                [self.exp_avg[name] for name in group],
                [self.exp_avg_sq[name] for name in group],
                self.lr * factor,
                *self.betas,
                self.eps,
                [self.weight_decay if p.ndim >= 2 else 0.0 for p in group.values()],
                self.steps,
                gradient_scale,
            )

    def _check_step(self, changed, gradient_scale):
        if not isinstance(gradient_scale, Real) or not math.isfinite(gradient_scale):
            raise ValueError(f"gradient_scale must be a finite number, not {gradient_scale!r}")
        if not _is_finite_nonnegative(self.lr):
            raise ValueError(f"lr must be 0 or more and finite, not {self.lr}")
        for name, p in self._frozen.items():
            if p.requires_grad:
                raise ValueError(f"parameter {name} was frozen when this AdamW was made: make a new one to train it")
        for name, p in changed.items():
            if not p.data.flags.writeable:
                advice = "load the model's weights, or fill layers.allocate(p), before training it"
                raise ValueError(f"parameter {name} has no weights yet, or a read-only array: {advice}")
            if p.shape != self.exp_avg[name].shape:
                raise ValueError(f"parameter {name} is {p.shape}, and was {self.exp_avg[name].shape}")
            if not p.data.flags.c_contiguous:
                raise ValueError(f"parameter {name} is not contiguous: set p.data = np.ascontiguousarray(p.data)")
            if p.grad.shape != p.shape or p.grad.dtype != p.dtype:
                found = f"{p.grad.dtype} {p.grad.shape}"
                raise ValueError(f"parameter {name} is {p.dtype} {p.shape}, and its gradient {found}")

    def __repr__(self) -> str:
        return f"AdamW({len(self.parameters)} parameters, lr={self.lr:g})"

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """{"exp_avg.NAME": array, "exp_avg_sq.NAME": array}: the arrays themselves. ``steps`` is the rest of it."""
        moments = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return {f"{kind}.{name}": array for kind, arrays in moments.items() for name, array in arrays.items()}

    def load_state_dict(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        """Copy the arrays of a ``state_dict``, and set ``steps``.

        Raises ValueError if names or shapes differ, an array isn't floating-point, or steps is below 0.
        """
        if index(steps) < 0:
            raise ValueError(f"an optimizer can't have done {steps} steps")
        own = self.state_dict()
        if own.keys() != arrays.keys():
            raise ValueError(f"optimizer state for other parameters: {sorted(own.keys() ^ arrays.keys())[:3]}")
        for name, array in own.items():
            if array.shape != arrays[name].shape:
                raise ValueError(f"optimizer state {name} has shape {arrays[name].shape}, and must have {array.shape}")
            if arrays[name].dtype.kind != "f":
                raise ValueError(f"optimizer state {name} must be floating-point, and is {arrays[name].dtype}")
        for name, array in own.items():
            array[...] = arrays[name]
        self.steps = steps


def _check_pairs(pairs):
    if not all(isinstance(pair, tuple) for pair in pairs):
        raise TypeError("AdamW takes (name, parameter) pairs: AdamW(model.named_parameters())")
    if twice := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
        raise ValueError(f"two parameters are named {twice[0]}: give each a name of its own")
    names: dict[int, str] = {}
    for name, p in pairs:
        if (other := names.setdefault(id(p), name)) != name:
            raise ValueError(f"{other} and {name} are one parameter, which would be changed twice: leave one out")


def _is_finite_nonnegative(x: float) -> bool:
    return math.isfinite(x) and x >= 0


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients together so that their norm, taken as one long vector, is at most ``max_norm``.

    Returns the norm before (Pascanu, Mikolov & Bengio 2013). If it is NaN or infinite, the gradients stay as they are.
    ``parameters`` may be a single one. Raises as ``grad_norm`` and ``clip_scale``.

    >>> p = Tensor([3.0, 4.0], requires_grad=True)
    >>> p.grad = np.array([3.0, 4.0], np.float32)
    >>> clip_grad_norm([p], 1.0)
    5.0
    >>> p.grad
    array([0.6, 0.8], dtype=float32)
    """
    if isinstance(parameters, Tensor):  # its elements would be taken for parameters
        parameters = [parameters]
    parameters = list(parameters)
    norm = grad_norm(parameters)
    if (scale := clip_scale(norm, max_norm)) < 1:
        kernels.scale([p.grad for p in parameters if p.grad is not None], scale)
    return norm


def grad_norm(parameters: Iterable[Tensor]) -> float:
    """The norm of all gradients, taken as one long vector.

    Raises TypeError if a gradient is not of its parameter's dtype, or on pairs of names and parameters.
    """
    gradients = []
    for p in parameters:
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters are Tensors, as model.parameters() gives them, not {type(p).__name__}")
        if p.grad is not None:
            if p.grad.dtype != p.dtype:
                raise TypeError(f"a parameter of {p.dtype} has a gradient of {p.grad.dtype}")
            gradients.append(p.grad)
    return math.sqrt(kernels.sum_of_squares(gradients))


def clip_scale(norm: float, max_norm: float) -> float:
    """The factor that brings gradients of this norm down to ``max_norm``; 1 if it is no larger, or not finite.

    Raises ValueError on a max_norm that is negative or NaN.

    ``optimizer.step(clip_scale(grad_norm(parameters), 1.0))`` changes the parameters as ``clip_grad_norm`` and ``step``
    do, but goes through the gradients once less, and leaves them as they are.

    >>> clip_scale(5.0, 1.0), clip_scale(0.5, 1.0)
    (0.2, 1.0)
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be 0 or more, not {max_norm}")
    return max_norm / norm if math.isfinite(norm) and norm > max_norm else 1.0
