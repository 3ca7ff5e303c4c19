"""Interception: see each operation as it is made, while code that knows nothing of it runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from npgpt.hooks import calls_through
from npgpt.tensor import Tensor

_open = threading.Lock()
_REPLACED = ("from_op", "backward")


@contextmanager
def intercepted(
    made: Callable[..., Tensor], called: Callable[..., Tensor] | None = None, went_back: Callable | None = None
) -> Iterator[None]:
    """Within the block, this thread's operations, modules and backward passes go through these functions.

    made        made(from_op, data, parents, backward) in place of Tensor.from_op(data, parents, backward)
    called      called(call, module, *inputs) in place of module(*inputs)
    went_back   went_back(backward, tensor, *arguments) in place of tensor.backward(*arguments)

    Each is given the original as its first argument, and calls it. ``Tensor`` and ``Module`` are changed for all
    threads, and what other threads do goes to the originals. Afterwards everything is as before, also if the block
    raises. Raises RuntimeError if such a block is open already, in this thread or in another one.
    """
    if not _open.acquire(blocking=False):
        raise RuntimeError("a trace is open already: end its with block first")
    thread = threading.get_ident()

    def through(function, original):
        def chosen(*arguments, **named):
            if threading.get_ident() == thread:
                return function(original, *arguments, **named)
            return original(*arguments, **named)

        return chosen

    def around(call, *arguments, **named):
        return through(called or _as_before, call)(*arguments, **named)

    originals = {name: vars(Tensor)[name] for name in _REPLACED}
    try:
        Tensor.from_op = staticmethod(through(made, Tensor.from_op))  # type: ignore[method-assign,assignment]
        Tensor.backward = through(went_back or _as_before, Tensor.backward)  # type: ignore[method-assign]
        with calls_through(around):
            yield
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)
        _open.release()


def _as_before(original, *arguments: Any, **named: Any) -> Any:
    return original(*arguments, **named)
