"""GPT-2 on NumPy arrays, with every gradient derived and written by hand.

The names below are imported when they are first used (PEP 562): importing Numba takes longer than all the rest, and
``python -m npgpt.train --help`` doesn't need it.

>>> from npgpt import GPT, GPTConfig
>>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8), seed=0)
>>> model([[1, 2, 3]]).shape
(1, 3, 5)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names, for type checkers, which don't run __getattr__
    from npgpt import adapters as adapters
    from npgpt import checkpoints as checkpoints
    from npgpt import generation as generation
    from npgpt import gradcheck as gradcheck
    from npgpt import kernels as kernels
    from npgpt import layers as layers
    from npgpt import ops as ops
    from npgpt import optim as optim
    from npgpt.checkpoints import load as load
    from npgpt.config import GPTConfig as GPTConfig
    from npgpt.errors import CheckpointError as CheckpointError
    from npgpt.gpt import GPT as GPT
    from npgpt.kernels.precision import set_matmul_precision as set_matmul_precision
    from npgpt.notebook.playground import playground as playground
    from npgpt.optim import AdamW as AdamW
    from npgpt.teaching.trace import trace as trace
    from npgpt.tensor import Tensor as Tensor
    from npgpt.tensor import no_grad as no_grad
    from npgpt.text import batches
    from npgpt.text import tokenizers as tokenizers

    data = batches

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

__all__ = [  # written out, since type checkers read it
    "GPT",
    "AdamW",
    "CheckpointError",
    "GPTConfig",
    "Tensor",
    "load",
    "no_grad",
    "ops",
    "optim",
    "playground",
    "set_matmul_precision",
    "trace",
]


if not TYPE_CHECKING:  # with which every name would seem to be there

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
