"""Forward hooks: watch what the parts of a model give, without a word about it in the model."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from npgpt.layers import Module
from npgpt.tensor import Tensor

_plain_call, _lock = Module.__call__, threading.Lock()
_around: list[Callable] = []  # of the open blocks, in the order in which they were opened


def named_modules(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """(name, Module) of all parts, in the model's order, each before its own parts.

    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> [name for name, _ in named_modules(model) if name.count(".") < 2]
    ['wte', 'wpe', 'drop', 'h.0', 'ln_f']
    """
    for name, child in module.children():
        yield prefix + name, child
        yield from named_modules(child, f"{prefix}{name}.")


@contextmanager
def forward_hook(model: Module, see: Callable[[str, Tensor], Any]) -> Iterator[None]:
    """Within the block, see(name, y) is called each time that a part of ``model`` has computed y.

    ``generate`` computes with packed copies of the weights instead of the parts, so little of it is seen.

    What ``see`` returns is ignored, and it must not change y; so results are the same, bit for bit, as without it. A
    block may stand inside another one. ``Module.__call__`` is replaced meanwhile, for all models and threads; other
    models only pass through.

    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> with forward_hook(model, lambda name, y: print(name, y.shape)):
    ...     hidden = model.hidden_states([[0, 1, 2]])  # doctest: +ELLIPSIS
    wte (1, 3, 2)
    wpe (3, 2)
    drop (1, 3, 2)
    h.0.ln_1 (1, 3, 2)
    ...
    """
    names = {module: name for name, module in named_modules(model)}

    def watched(call, module, *inputs, **named):
        y = call(module, *inputs, **named)
        if module in names:
            see(names[module], y)
        return y

    with calls_through(watched):
        yield


@contextmanager
def calls_through(around: Callable[..., Tensor]) -> Iterator[None]:
    """Within the block, around(call, module, *inputs) stands for module(*inputs), for all threads.

    Blocks may end in any order, in any thread: the one that was opened last is outermost.
    """
    with _lock:
        _around.append(around)
        Module.__call__ = _through_all  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _around.remove(around)
            if not _around:
                Module.__call__ = _plain_call  # type: ignore[method-assign]


def _through_all(self, *inputs, **named):
    call = _plain_call
    for around in tuple(_around):
        call = partial(around, call)
    return call(self, *inputs, **named)
