"""Linear layers with adapters beside them, and how adapters are attached to a model and switched."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from npgpt import ops
from npgpt.adapters.adapter import Adapter, LoRAConfig
from npgpt.adapters.quantized import FrozenLinear
from npgpt.errors import ConfigError
from npgpt.gpt import GPT
from npgpt.hooks import named_modules
from npgpt.layers import Dropout, Linear, Module
from npgpt.tensor import Tensor


class LoRA(Module):
    """One adapter's part of one layer: it adds s dropout(x) A B to the layer's result.   A (in, r), B (r, out)

    adapter     the one that it is a part of, without its arrays
    """

    def __init__(self, A: np.ndarray, B: np.ndarray, adapter: Adapter, rng: np.random.Generator, trainable: bool):
        self.A, self.B = Tensor(A, trainable), Tensor(B, trainable)
        self.adapter = replace(adapter, matrices={})
        self.dropout = Dropout(adapter.config.dropout, rng)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return ops.lora(y, x, self.A, self.B, self.adapter.config.scale, *self.dropout.draw())

    def merged_with(self, W: np.ndarray) -> np.ndarray:
        """W (in, out) -> W + s A B, a new array"""
        return merged(W, self.A.data, self.B.data, self.adapter.config)


class LoRALinear(Module):
    """y = base(x), and what the adapter in use adds to it.

    base        the linear layer that was here before, whole or in few bits. Adapters share it, and its parameters keep
                their names
    lora        the adapter in use, None if there is none. Only its parameters are seen by ``named_parameters``
    adapters    all that are attached, by name
    """

    def __init__(self, base: Linear | FrozenLinear):
        self.base = base
        self.lora: LoRA | None = None
        self.adapters: dict[str, LoRA] = {}
        self.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y if self.lora is None else self.lora(y, x)

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        yield from self.base.named_parameters(prefix)
        if self.lora is not None:
            yield from self.lora.named_parameters(f"{prefix}lora.")

    def use(self, name: str | None) -> None:
        """Use this adapter from now on; none if this layer has no part of it."""
        self.lora = None if name is None else self.adapters.get(name)
        if self.lora is not None:
            self.lora.train(self.training)

    @property
    def weight(self) -> Tensor:
        """W + s A B, made anew: the same layer without an adapter. What packs weights for generating reads it."""
        W = self.base.weight
        return W if self.lora is None else Tensor(self.lora.merged_with(W.data))

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias


def merged(W: np.ndarray, A: np.ndarray, B: np.ndarray, config: LoRAConfig) -> np.ndarray:
    """W + s A B, since x W + s x A B = x (W + s A B).   W (in, out), A (in, r), B (r, out) -> (in, out)"""
    return W + A @ (B * B.dtype.type(config.scale))


def attach(model: GPT, adapter: Adapter, name: str = "default", trainable: bool = False) -> None:
    """Put an adapter beside the model's layers, under a name, and use it.

    The model's own parameters stay where they are: adapters share them. With ``trainable`` they are frozen, and the
    adapter's are what trains; otherwise neither is changed, and the adapter is frozen. They stay frozen until their
    ``requires_grad`` is set again, also when the adapter is detached.

    Raises ConfigError if the adapter doesn't fit the model, or there is one of that name already.
    """
    if not isinstance(adapter, Adapter):
        raise TypeError(f"an Adapter is attached, not {type(adapter).__name__}: open_adapter(path) reads one")
    adapter.check(model.config)
    if name in attached(model):
        raise ConfigError(f"the model has an adapter {name!r} already: detach it first, or choose another name")
    if trainable:
        for path, p in model.named_parameters():
            if ".lora." not in path:  # another adapter that is trained
                p.requires_grad = False
    dtype = model.ln_f.weight.dtype
    for layer, (A, B) in adapter.matrices.items():
        found = _wrapped(model, layer)
        found.adapters[name] = LoRA(np.array(A, dtype), np.array(B, dtype), adapter, model.rng, trainable)
    use(model, name)


def attached(model: GPT) -> list[str]:
    """The names of all adapters that are attached, in that order."""
    return list(dict.fromkeys(name for _, layer in _layers(model) for name in layer.adapters))


def use(model: GPT, name: str | None) -> None:
    """Use an adapter that is attached; None: the model alone. No array is copied. Raises ConfigError on another name.

    A ``Decoder`` that has packed its weights keeps those of the adapter that was in use then: make a new one.
    """
    if name is not None:
        _check_attached(model, name)
    for _, layer in _layers(model):
        layer.use(name)


def detach(model: GPT, name: str) -> None:
    """Remove an adapter; if it was in use, the model is alone afterwards. Raises ConfigError on another name."""
    _check_attached(model, name)
    for path, layer in _layers(model):
        removed = layer.adapters.pop(name, None)
        if layer.lora is removed:
            layer.lora = None
        if not layer.adapters:
            setattr(*_place(model, path), layer.base)


def merge(model: GPT, name: str = "default") -> None:
    """Add an adapter's part to the model's own weights, which become new arrays, and detach it.

    Raises ConfigError on another name, or if the weights are held in few bits.
    """
    _check_attached(model, name)
    layers = [(layer, layer.adapters[name]) for _, layer in _layers(model) if name in layer.adapters]
    for layer, _ in layers:
        if isinstance(layer.base, FrozenLinear):
            raise ConfigError("the model's weights are in 4 bits: python -m npgpt.convert --merge makes a whole model")
    for layer, part in layers:
        weight = layer.base.weight
        weight.data = part.merged_with(weight.data)
    detach(model, name)


def adapter_of(model: GPT, name: str = "default") -> Adapter:
    """An attached adapter by itself; it holds the model's own arrays, no copies. Raises ConfigError on another name."""
    _check_attached(model, name)
    parts = {path: layer.adapters[name] for path, layer in _layers(model) if name in layer.adapters}
    adapter = next(iter(parts.values())).adapter
    return replace(adapter, matrices={path: (part.A.data, part.B.data) for path, part in parts.items()})


def _check_attached(model, name):
    if name not in attached(model):
        raise ConfigError(f"no adapter {name!r} is attached; there are {', '.join(attached(model)) or 'none'}")


def _layers(model: GPT) -> list[tuple[str, LoRALinear]]:
    """(name, layer) of all layers with adapters."""
    return [(path, module) for path, module in named_modules(model) if isinstance(module, LoRALinear)]


def _wrapped(model: GPT, path: str) -> LoRALinear:
    """The layer at a path such as h.0.attn.c_attn, made one for adapters if it is none yet."""
    parent, attribute = _place(model, path)
    layer = getattr(parent, attribute)
    if not isinstance(layer, LoRALinear):
        layer = LoRALinear(layer)
        setattr(parent, attribute, layer)
    return layer


def _place(model: GPT, path: str) -> tuple[Module, str]:
    """The part of the model that has this layer, and the layer's name there."""
    _, number, part, attribute = path.split(".")
    return getattr(model.h[int(number)], part), attribute
