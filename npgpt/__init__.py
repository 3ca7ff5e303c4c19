"""GPT-2 on NumPy arrays, with every gradient derived and written by hand.

The names below are imported when they are first used (PEP 562): importing Numba takes longer than all the rest, and
``python -m npgpt.train --help`` doesn't need it.

>>> from npgpt import GPT, GPTConfig
>>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8), seed=0)
>>> model([[1, 2, 3]]).shape
(1, 3, 5)
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
    "trace": "teaching.trace",
    "playground": "notebook.playground",
}
_MODULES = {
    **{
        name: name
        for name in ("adapters", "checkpoints", "generation", "gradcheck", "kernels", "layers", "ops", "optim")
    },
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
