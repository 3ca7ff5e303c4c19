"""The record of what was computed, and the way back through it.

Each operation records a Node (``Tensor.from_op`` makes it). ``backpropagate`` takes the gradient of a result and goes
from node to node back to the leaves, the tensors that no operation made.
"""

from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

_recording = ContextVar("npgpt_recording", default=True)


def no_grad() -> _GeneratorContextManager[None]:
    """``with no_grad():`` record nothing, so no memory is kept for a backward pass. ``@no_grad()`` works too.

    >>> from npgpt import Tensor, no_grad
    >>> x = Tensor([2.0], requires_grad=True)
    >>> with no_grad():
    ...     y = x * 3
    >>> y.requires_grad, (x * 3).requires_grad
    (False, True)
    """
    return _recording_is(False)


def enable_grad() -> _GeneratorContextManager[None]:
    """``with enable_grad():`` record everything, within ``no_grad`` too."""
    return _recording_is(True)


@contextmanager
def _recording_is(recording):
    token = _recording.set(recording)
    try:
        yield
    finally:
        _recording.reset(token)


def is_grad_enabled() -> bool:
    """False inside ``no_grad``."""
    return _recording.get()


def needs_grad(*tensors: Any) -> tuple[bool, ...]:
    """For each tensor, whether a backward pass must compute its gradient. None stands for an absent tensor."""
    return tuple(_recording.get() and t is not None and t.requires_grad for t in tensors)


@dataclass(slots=True, eq=False)
class Node:
    """The record of one operation. It holds no values of its own, only what ``backward`` captured."""

    parents: tuple  # for each input the Node or the leaf that its gradient goes to, None if it needs none
    backward: Callable
    shape: tuple[int, ...]
    dtype: np.dtype


def backpropagate(result: Any, grad: np.ndarray) -> Iterator[tuple]:
    """From ``grad``, the gradient of the tensor ``result``, yield (leaf, its gradient) for each leaf that needs one.

    Nodes are taken in reverse topological order, so a gradient is complete before it is passed on. In

        b = a + a
        c = b + b

    c contributes 1 to b twice. b waits for both and then contributes 2 to a twice, so a.grad = 4. Going on to a with
    the first contribution alone would count twice.

    The walk is a loop and not a recursion, so depth has no limit. It releases each node as it passes, so memory falls
    while gradients appear, and a graph can be walked once.

    A leaf comes directly after the last operation that it went into, if that one has it behind its other inputs, as
    linear(x, weight, bias) has: its gradient is complete then, and may travel while the walk goes on.
    """
    gradients = {result.source: grad}
    order = _topological_order(result.source)
    while order:
        source = order.pop()
        dy = gradients.pop(source, None)
        if dy is None:  # nothing contributed to it
            continue
        if isinstance(source, Node):
            _contribute(source, dy, gradients)
        else:
            yield source, dy


def _topological_order(result) -> list:
    """``result`` and all that it was made from, each after its parents."""
    order, seen, stack = [], set(), [(result, False)]
    while stack:
        source, parents_done = stack.pop()
        if parents_done:
            order.append(source)
        elif source not in seen:
            seen.add(source)
            stack.append((source, True))
            if isinstance(source, Node):
                stack.extend((parent, False) for parent in reversed(source.parents) if parent is not None)
    return order


def _contribute(node, dy, gradients):
    """Add to the parents' gradients what ``backward`` makes of dy, and release what it captured."""
    parents, backward = node.parents, node.backward
    node.parents, node.backward = (), _already_released
    needs = tuple(parent is not None for parent in parents)
    found = [dx if dx is None or callable(dx) else np.asarray(dx) for dx in backward(dy, needs)]
    operation = backward.__qualname__.rsplit(".<locals>", 1)[0]  # "linear" of linear.<locals>.backward
    if len(found) != len(parents):
        raise RuntimeError(f"backward of {operation} returned {len(found)} gradients for {len(parents)} inputs")
    for i, (parent, dx) in enumerate(zip(parents, found, strict=True)):
        if parent is None or dx is None:
            continue
        if callable(dx):
            if parent not in gradients:
                gradients[parent] = np.zeros(parent.shape, parent.dtype)
            dx(gradients[parent])
        elif (dx.shape, dx.dtype) != (parent.shape, parent.dtype):
            wanted = f"its input {i}, which is {parent.shape} {parent.dtype}"
            raise RuntimeError(f"backward of {operation} returned a gradient {dx.shape} {dx.dtype} for {wanted}")
        elif parent in gradients:
            gradients[parent] += dx
        else:  # the first contribution is added to in place, so nothing else may use its memory
            gradients[parent] = dx.copy() if _is_shared(dx, found[i + 1 :]) else dx


def _is_shared(dx, later):
    """Whether dx is read-only, or a later contribution reads its memory. (dy may be dx: nothing else reads it.)"""
    others = [other for other in later if other is not None]
    return not dx.flags.writeable or any(callable(other) or np.may_share_memory(dx, other) for other in others)


def _already_released(dy, needs):
    raise RuntimeError("backward() has been through this graph and released it; compute the result again")
