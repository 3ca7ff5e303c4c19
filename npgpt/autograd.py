"""The record of what was computed, and the way back through it.

Each operation records a Node (``Tensor.from_op`` makes it). ``backpropagate`` takes the gradient of a result and goes
back from node to node, by the chain rule, to the leaves: the tensors that no operation made. tensor.py says what a
gradient is, and what ``dx`` and ``dy`` mean.
"""

from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager, suppress
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
        with suppress(ValueError):  # an async generator may end in another context than it began in, which is harmless
            _recording.reset(token)


def is_grad_enabled() -> bool:
    """False inside ``no_grad``."""
    return _recording.get()


def needs_grad(*tensors: Any) -> tuple[bool, ...]:
    """For each tensor, whether a backward pass must compute its gradient. None stands for an absent tensor."""
    return tuple(_recording.get() and t is not None and t.requires_grad for t in tensors)


@dataclass(slots=True, eq=False)
class Node:
    """The record of one operation. It holds no values of its own, only those that ``backward`` captured."""

    parents: tuple  # for each input, the Node or leaf that its gradient belongs to; None if it needs no gradient
    backward: Callable  # backward(dy, needs) -> a gradient for each parent, as Tensor.from_op describes
    shape: tuple[int, ...]
    dtype: np.dtype


def backpropagate(result: Any, grad: np.ndarray) -> Iterator[tuple]:
    """From ``grad``, the gradient of the tensor ``result``, yield (leaf, its gradient) for each leaf that needs one.

    The order matters. A node is processed only after all its consumers, the nodes computed from it, have contributed to
    its gradient. In

        b = a + a
        c = b + b

    c contributes 1 to b's gradient twice, so db = 2. Only then is b processed: it contributes 2 to a's gradient twice,
    so da = 4. A walk that processed b after the first contribution, and again after the second, would pass on 1 and
    then 2, and da would be 6.

    So the walk takes the nodes in reverse topological order: consumers first. It is a loop and not a recursion, so a
    graph may be of any depth. Each node is released when it has been processed: this frees memory on the way, and a
    graph can be walked only once.

    A weight that comes after x among its last consumer's inputs, as in linear(x, weight, bias), is yielded right after
    that consumer. Its gradient can be sent to other processes while the walk goes on (training/parallel.py).
    """
    gradients = {result.source: grad}
    order = _topological_order(result.source)
    while order:
        source = order.pop()  # the last one: all its consumers have been processed
        dy = gradients.pop(source, None)
        if dy is None:  # no consumer contributed to it
            continue
        if isinstance(source, Node):
            _contribute(source, dy, gradients)
        else:
            yield source, dy


def _topological_order(result) -> list:
    """``result`` and everything that it was computed from, each after its parents."""
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
    """The chain rule at one node: its ``backward`` turns dy into a contribution to the gradient of each parent."""
    for parent, dx in _run_backward(node, dy):
        if callable(dx):  # it adds itself to a gradient: see Tensor.from_op
            if parent not in gradients:
                gradients[parent] = np.zeros(parent.shape, parent.dtype)
            dx(gradients[parent])
        elif parent in gradients:
            gradients[parent] += dx
        else:
            gradients[parent] = dx


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo broadcasting. Where NumPy repeated an input of ``shape``, its gradient is the sum over the copies.

    >>> unbroadcast(np.ones((2, 3)), (3,))  # (3,) was used for each of 2 rows
    array([2., 2., 2.])
    """
    if gradient.shape == shape:
        return gradient
    added = tuple(range(gradient.ndim - len(shape)))
    stretched = tuple(i + len(added) for i, n in enumerate(shape) if n == 1 and gradient.shape[i + len(added)] != 1)
    return gradient.sum(axis=added + stretched, keepdims=True).reshape(shape)


# That was the algorithm. The rest is about memory and about mistakes in a backward function.


def _run_backward(node, dy):
    """Release the node, call its ``backward``, and yield (parent, dx) for each parent that gets a gradient.

    dx may be written to. Raises RuntimeError unless there is a gradient for each parent, of its shape and dtype.
    """
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
            yield parent, dx
        elif (dx.shape, dx.dtype) == (parent.shape, parent.dtype):
            yield parent, dx.copy() if _is_shared(dx, found[i + 1 :]) else dx
        else:
            wanted = f"its input {i}, which is {parent.shape} {parent.dtype}"
            raise RuntimeError(f"backward of {operation} returned a gradient {dx.shape} {dx.dtype} for {wanted}")


def _is_shared(dx, later):
    """Whether dx is read-only, or a later contribution reads its memory. (dy may be dx: nothing else reads it.)"""
    others = [other for other in later if other is not None]
    return not dx.flags.writeable or any(callable(other) or np.may_share_memory(dx, other) for other in others)


def _already_released(dy, needs):
    raise RuntimeError("backward() has been through this graph and released it; compute the result again")
