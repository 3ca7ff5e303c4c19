"""Whether a model still computes what its config says: packed weights compute that, and nothing else."""

from typing import Any

import numpy as np

from npgpt.gpt import GPT
from npgpt.hooks import named_modules
from npgpt.layers import Dropout, Embedding, Linear, Module
from npgpt.tensor import Tensor

# The methods that generating calls, of the model and of its parts. GPT.forward is not one.
_METHODS_OF_MODEL = ("embed", "hidden_states", "logits", "lm_head_weight")
_METHODS_OF_PARTS = ("__call__", "forward", "draw")


def changed_part(model: GPT) -> str | None:
    """The first part of a model that was changed in code, so that its config doesn't say what it computes; else None.

    It is compared with a new model of the same config. Each part must be of the same class, or of a subclass that
    leaves alone what generating calls; the functions that are called must be npgpt's; and what is neither a parameter
    nor a part, such as an activation or a scale, must be equal. Parameters may have any values. In place of linear
    layers and embeddings there may be those of ``npgpt.adapters``. What was added and isn't called changes nothing.

    >>> from npgpt import GPTConfig, ops
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2))
    >>> model.h[0].mlp.activation = ops.relu
    >>> changed_part(model)
    'h.0.mlp.activation'
    """
    plain = GPT.empty(model.config)
    if len(model.h) != len(plain.h):
        return "h"
    parts, expected = {"": model, **dict(named_modules(model))}, {"": plain, **dict(named_modules(plain))}
    if missing := [name for name in expected if name not in parts]:
        return missing[0]
    for name, part in parts.items():
        same = expected.get(name.removesuffix(".base"))  # the layer beneath an adapter is as the one without it
        if same is not None and (attribute := _changed_attribute(part, same)) is not None:
            return f"{name}.{attribute}".strip(".") or f"the class {type(model).__name__}"
    return None


def _changed_attribute(part: Module, plain: Module) -> str | None:
    """The name of an attribute that differs, "" if the class does, else None. Their parts aren't looked at."""
    kind = type(part)
    is_adapter = isinstance(plain, Linear | Embedding) and kind.__module__.startswith("npgpt.adapters.")
    if not (isinstance(part, type(plain)) or is_adapter):
        return ""
    for name in _METHODS_OF_MODEL if isinstance(plain, GPT) else _METHODS_OF_PARTS:
        if name in vars(part):
            return name
        if hasattr(type(plain), name) and not _is_own(getattr(kind, name)):
            return ""
    if isinstance(plain, Dropout):  # is off
        return None
    for name, value in vars(plain).items():
        if isinstance(value, Tensor | Module | list | np.random.Generator | None):
            continue
        if vars(part).get(name) != value:
            return name
    return None


def _is_own(method: Any) -> bool:
    """Whether npgpt's code stands behind a method or property. Its ``__module__`` may be a copy: functools.wraps."""
    function = getattr(method, "fget", method)
    return getattr(function, "__globals__", {}).get("__name__", "").startswith("npgpt.")
