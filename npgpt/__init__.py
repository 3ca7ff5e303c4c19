"""GPT-2 on NumPy arrays, with every gradient derived and written by hand.

The names below are imported when they are first used (PEP 562), so that ``python -m npgpt.train --help`` and a wrong
flag answer at once: importing Numba takes longer than all the rest together.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Tensor": "tensor",
    "no_grad": "tensor",
    "GPT": "gpt",
    "GPTConfig": "config",
    "AdamW": "optim",
    "load": "checkpoints",
    "set_matmul_precision": "kernels.precision",
    "CheckpointError": "errors",
}
_MODULES = {
    **{name: name for name in ("checkpoints", "generation", "gradcheck", "kernels", "layers", "ops", "optim")},
    "data": "text.batches",
    "tokenizers": "text.tokenizers",
}

__all__ = [*_HOME, "ops", "optim"]


def __getattr__(name):
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{_MODULES[name]}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOME, *_MODULES})
