"""The parts of a GPT: what holds parameters, and the halves of a block. B batch, T time, C channels, H heads."""

import math

import numpy as np

from npgpt import ops
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.tensor import Tensor


class Module:
    """Something with parameters. Its attributes that are Tensors, Modules or lists of Modules are found by name."""

    training = False

    def __call__(self, *inputs, **named):
        return self.forward(*inputs, **named)

    def children(self):
        """(name, Module) of the direct parts, in the order in which they were made; of a list h: h.0, h.1, ..."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, Module))

    def named_parameters(self, prefix: str = ""):
        """(name, Tensor) of every parameter, named as in the public GPT-2 checkpoint."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                yield prefix + name, value
        for name, child in self.children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of ``named_parameters``."""
        return [p for _, p in self.named_parameters()]

    def train(self, mode: bool = True):
        """Switch dropout on, here and in all parts. A new or loaded model has it off."""
        self.training = mode
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self):
        """Switch dropout off."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """{name: array} of all parameters: the arrays themselves, not copies."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, arrays: dict[str, np.ndarray], source: str = "the given arrays") -> None:
        """Copy ``arrays`` into the parameters; nothing is changed unless all of them fit.

        Raises CheckpointError, which names ``source``: names that are missing or that the model has no place for, a
        shape that differs.
        """
        parameters = dict(self.named_parameters())
        for problem, names in (
            ("lacks", parameters.keys() - arrays.keys()),
            ("has, and the model has no place for,", arrays.keys() - parameters.keys()),
        ):
            if names:
                shown = ", ".join(repr(name[:100]) for name in sorted(names)[:3])  # a stranger's names: quoted, cut
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise CheckpointError(f"{source} {problem} the tensor {shown}{more}")
        for name, parameter in parameters.items():
            check_fits(name, parameter.shape, arrays[name], source)
        for name, parameter in parameters.items():
            assign(parameter, arrays[name])


def check_fits(name: str, expected: tuple, array: np.ndarray, source: str) -> None:
    """Raise CheckpointError unless ``array`` can be the tensor ``name`` of shape ``expected``."""
    if array.shape != expected:
        raise CheckpointError(f"{source}: tensor {name} must have shape {expected}, and has {array.shape}")
    if array.dtype.kind != "f":
        raise CheckpointError(f"{source}: tensor {name} must hold floating-point numbers, and holds {array.dtype}")


def assign(parameter: Tensor, array: np.ndarray) -> None:
    """Copy an array into a parameter, converted to the parameter's dtype."""
    np.copyto(parameter.data, array, casting="same_kind")


def _parameter(shape, dtype, value=0.0) -> Tensor:
    return Tensor(np.full(shape, value, dtype) if value else np.zeros(shape, dtype), requires_grad=True)


class Linear(Module):
    """y = x W + b.   weight (in, out), as in GPT-2's checkpoint, bias (out,) or None"""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype):
        self.weight = _parameter((inputs, outputs), dtype)
        self.bias = _parameter((outputs,), dtype) if bias else None

    def forward(self, x):
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(Module):
    """weight (C,), starting at 1, bias (C,) or None"""

    def __init__(self, C: int, bias: bool, eps: float, dtype):
        self.weight = _parameter((C,), dtype, 1.0)
        self.bias = _parameter((C,), dtype) if bias else None
        self.eps = eps

    def forward(self, x):
        return ops.layernorm(x, self.weight, self.bias, self.eps)


class Embedding(Module):
    """A table of rows: ids (...) -> (..., C).   weight (rows, C)"""

    def __init__(self, rows: int, C: int, dtype):
        self.weight = _parameter((rows, C), dtype)

    def forward(self, ids):
        return ops.embedding(ids, self.weight)


class Dropout(Module):
    """Dropout while training. Each use draws its seed from the model's generator, whose state can be saved."""

    def __init__(self, p: float, rng: np.random.Generator):
        self.p = p
        self.rng = rng

    def seed(self) -> int:
        return int(self.rng.integers(2**64, dtype=np.uint64))

    def forward(self, x):
        return ops.dropout(x, self.p, self.seed()) if self.training and self.p else x


class CausalSelfAttention(Module):
    """(B, T, C) -> (B, T, C): queries, keys and values from one linear layer, attention, and one linear layer more."""

    def __init__(self, config: GPTConfig, layer: int, rng, dtype):
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

    def forward(self, x, padding_mask=None, cache=None):
        qkv = self.c_attn(x)
        if self.rotary:
            qkv = ops.rotary(qkv, self.n_head, first=0 if cache is None else cache.length)
        if cache is not None:
            y = Tensor(cache.attend(qkv.data, self.n_head, self.scale))
        elif self.training and self.attn_dropout.p:
            p, seed = self.attn_dropout.p, self.attn_dropout.seed()
            y = ops.causal_self_attention(qkv, self.n_head, self.scale, padding_mask, p, seed)
        else:
            y = ops.causal_self_attention(qkv, self.n_head, self.scale, padding_mask)
        return self.resid_dropout(self.c_proj(y))


ACTIVATIONS = {"gelu_new": ops.gelu_tanh, "gelu": ops.gelu, "relu": ops.relu}


class MLP(Module):
    """(B, T, C) -> (B, T, C) through a wider layer, for each position by itself."""

    def __init__(self, config: GPTConfig, rng, dtype):
        self.c_fc = Linear(config.n_embd, config.inner_size, config.bias, dtype)
        self.c_proj = Linear(config.inner_size, config.n_embd, config.bias, dtype)
        self.dropout = Dropout(config.dropout, rng)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x):
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class Block(Module):
    """Attention moves information between positions, the MLP works on each; both add to the residual stream x."""

    def __init__(self, config: GPTConfig, layer: int, rng, dtype):
        self.ln_1 = LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)
        self.attn = CausalSelfAttention(config, layer, rng, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)
        self.mlp = MLP(config, rng, dtype)

    def forward(self, x, padding_mask=None, cache=None):
        x = x + self.attn(self.ln_1(x), padding_mask, cache)
        return x + self.mlp(self.ln_2(x))
