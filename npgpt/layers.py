"""The parts of a GPT, each a Module with its parameters. B batch, T time, C channels, H heads."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from npgpt import ops
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.tensor import Tensor

_dropout_is_off = ContextVar("npgpt_dropout_is_off", default=False)


@contextmanager
def dropout_off() -> Iterator[None]:
    """Within the block dropout is off in this thread. ``eval()`` would switch it off for all threads.

    With ``recompute`` the backward pass belongs in the block, too.
    """
    token = _dropout_is_off.set(True)
    try:
        yield
    finally:
        _dropout_is_off.reset(token)


class Module:
    """A part of a model. Its attributes that are Tensors, Modules or lists of Modules are found by name.

    A Tensor that an operation made is not a parameter, and a Module in a tuple is not found. Raises TypeError if a list
    or dict holds anything else that is trainable, since it would be neither trained nor saved.
    """

    training = False
    forward: Callable[..., Tensor]  # a method of each subclass

    def __call__(self, *inputs, **named) -> Tensor:
        return self.forward(*inputs, **named)

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, Module) of the direct parts, in the order in which they were made; of a list h: h.0, h.1, ..."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(name, Tensor) of every parameter, named as in the public GPT-2 checkpoint."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.source is value:
                yield prefix + name, value
            elif isinstance(value, list | dict):
                _check_found(prefix + name, value)
        for name, child in self.children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Tensor]:
        """Each parameter once."""
        return list(dict.fromkeys(p for _, p in self.named_parameters()))

    def trainable_parameters(self) -> list[Tensor]:
        """Those that are not frozen. To freeze a parameter, set its ``requires_grad`` to False."""
        return [p for p in self.parameters() if p.requires_grad]

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on, here and in all parts. A new or loaded model has it off."""
        self.training = mode
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Switch dropout off."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """{name: array} of all parameters: the arrays themselves, not copies."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, arrays: dict[str, np.ndarray], source: str = "the state") -> None:
        """Copy ``arrays`` into the parameters, converted to their dtype; nothing is changed unless all of them fit.

        Raises CheckpointError, beginning with ``source``, if names or shapes differ or one isn't floating-point.
        """
        parameters = dict(self.named_parameters())
        if wrong := sorted(parameters.keys() ^ arrays.keys()):
            problem = "has an unexpected tensor" if wrong[0] in arrays else "lacks the tensor"
            raise CheckpointError(f"{source} {problem} {wrong[0][:100]!r}")
        for name, p in parameters.items():
            array = arrays[name]
            if array.shape != p.shape:
                raise CheckpointError(f"{source}: tensor {name} must have shape {p.shape}, and has {array.shape}")
            if array.dtype.kind != "f":
                raise CheckpointError(f"{source}: tensor {name} must be floating-point, and is {array.dtype}")
        for name, p in parameters.items():
            np.copyto(allocate(p), arrays[name], casting="same_kind")


def _check_found(name, container):
    """Raise TypeError if a list or dict holds something trainable that ``named_parameters`` doesn't find."""
    for value in container.values() if isinstance(container, dict) else container:
        if isinstance(container, list) and isinstance(value, Module):
            continue
        if any(map(_is_trained, value if isinstance(value, list | tuple) else [value])):
            raise TypeError(f"{name}: parameters are found as attributes, and Modules also in lists of Modules alone")


def _is_trained(value):
    if isinstance(value, Tensor):
        return value.requires_grad and value.source is value
    return isinstance(value, Module) and bool(value.trainable_parameters())


def declare(shape: tuple[int, ...], dtype: np.dtype, value: float = 0.0) -> Tensor:
    """A parameter with a shape but no memory yet: a read-only view of one element. ``allocate`` it, or assign data."""
    return Tensor(np.broadcast_to(np.array(value, dtype), shape), requires_grad=True)


def allocate(parameter: Tensor) -> np.ndarray:
    """The parameter's array, which may be written to. If it was only declared, it is new and uninitialised."""
    if not parameter.data.flags.writeable:
        parameter.data = np.empty(parameter.shape, parameter.dtype)
    return parameter.data


class Linear(Module):
    """y = x W + b.   weight (in, out), as in GPT-2's checkpoint, bias (out,) or None

    Parameters of the layers here have no memory until they are loaded, or filled: ``allocate(layer.weight)[...] = W``.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: np.dtype):
        self.weight = declare((inputs, outputs), dtype)
        self.bias = declare((outputs,), dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(Module):
    """y = xhat weight + bias, each row xhat normalised.   weight (C,), starting at 1, bias (C,) or None"""

    def __init__(self, C: int, bias: bool, eps: float, dtype: np.dtype):
        self.weight = declare((C,), dtype, 1.0)
        self.bias = declare((C,), dtype) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layernorm(x, self.weight, self.bias, self.eps)


class Embedding(Module):
    """A table of rows: ids (...) -> (..., C).   weight (rows, C)"""

    def __init__(self, rows: int, C: int, dtype: np.dtype):
        self.weight = declare((rows, C), dtype)

    def forward(self, ids: ArrayLike) -> Tensor:
        return ops.embedding(ids, self.weight)


class Dropout(Module):
    """Dropout while training. Each use draws its seed from the model's generator."""

    def __init__(self, p: float, rng: np.random.Generator):
        self.p = p
        self.rng = rng

    def draw(self) -> tuple[float, int]:
        """p and the seed of one use; 0 and 0 where nothing is dropped, and then nothing is drawn."""
        is_on = self.training and self.p > 0 and not _dropout_is_off.get()
        return (self.p, int(self.rng.integers(2**64, dtype=np.uint64))) if is_on else (0.0, 0)

    def forward(self, x: Tensor) -> Tensor:
        p, seed = self.draw()
        return ops.dropout(x, p, seed) if p else x


class CausalSelfAttention(Module):
    """(B, T, C) -> (B, T, C): a linear layer for queries, keys and values; attention; a second linear layer."""

    def __init__(self, config: GPTConfig, layer: int, rng: np.random.Generator, dtype: np.dtype):
        C = config.n_embd
        self.c_attn = Linear(C, 3 * C, config.has_qkv_bias, dtype)
        self.c_proj = Linear(C, C, config.bias, dtype)
        self.attn_dropout = Dropout(config.dropout, rng)
        self.resid_dropout = Dropout(config.dropout, rng)
        self.n_head = config.n_head
        self.rotary = config.position == "rotary"
        self.scale = 1 / math.sqrt(config.head_size)
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, x: Tensor, padding_mask: np.ndarray | None = None, cache: Any = None) -> Tensor:
        qkv = self.c_attn(x)
        if self.rotary:
            qkv = ops.rotary(qkv, self.n_head, first=0 if cache is None else cache.length)
        p, seed = self.attn_dropout.draw()
        y = ops.causal_self_attention(qkv, self.n_head, self.scale, padding_mask, p, seed, cache)
        return self.resid_dropout(self.c_proj(y))


_ACTIVATIONS = {"gelu_new": ops.gelu_tanh, "gelu": ops.gelu, "relu": ops.relu}


class MLP(Module):
    """(B, T, C) -> (B, T, C) through a wider layer, for each position by itself."""

    def __init__(self, config: GPTConfig, rng: np.random.Generator, dtype: np.dtype):
        self.c_fc = Linear(config.n_embd, config.inner_size, config.bias, dtype)
        self.c_proj = Linear(config.inner_size, config.n_embd, config.bias, dtype)
        self.dropout = Dropout(config.dropout, rng)
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class Block(Module):
    """Attention moves information between positions, and the MLP works on each by itself. Both add to x.

    x is the residual stream. A branch f is added to it, y = x + f(x), so dx = dy + (what f passes back). So dy reaches
    the first block through all the others, however small their own derivatives are.
    """

    def __init__(self, config: GPTConfig, layer: int, rng: np.random.Generator, dtype: np.dtype):
        self.ln_1 = LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)
        self.attn = CausalSelfAttention(config, layer, rng, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)
        self.mlp = MLP(config, rng, dtype)

    def forward(self, x: Tensor, padding_mask: np.ndarray | None = None, cache: Any = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), padding_mask, cache)
        return x + self.mlp(self.ln_2(x))
