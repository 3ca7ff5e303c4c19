"""The trace: each operation's inputs, result, dy and gradients, recorded while the ordinary code runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType

import numpy as np

from npgpt.hooks import named_modules
from npgpt.layers import Module
from npgpt.teaching.interception import intercepted
from npgpt.tensor import Tensor, needs_grad


@dataclass(eq=False)
class Value:
    """An array that operations took or gave: a parameter, another leaf, or a result.

    data        a copy, of when it was first used
    parameter   its name in the model; "" if it is none
    made_by     the operation whose result it is; None for a leaf
    used_by     (operation, which of its inputs) of each use, in order
    gradient    ∂loss/∂data, complete: what came back from all its uses together; None if nothing did
    """

    data: np.ndarray
    parameter: str = ""
    made_by: "Operation | None" = None
    used_by: list[tuple["Operation", int]] = field(default_factory=list)
    gradient: np.ndarray | None = None


@dataclass(eq=False)
class Operation:
    """One operation of the forward pass, and what its backward function did.

    index       its place in the forward pass, from 0
    path        the module that made it, such as "h.0.attn.c_attn"; "" for the model itself
    code        the function that it is: ``linear``, or ``Tensor.__add__``
    backward    the function that was recorded for the way back
    inputs      a Value for each, None for one that is absent
    result      a Value; its ``gradient`` is dy
    gradients   for each input what this operation contributed to its gradient; None if nothing. () before the way back
    order       its place in the backward pass, from 0; None if the way back did not come through
    """

    index: int
    path: str
    code: CodeType
    backward: Callable
    inputs: tuple[Value | None, ...]
    result: Value
    gradients: tuple[np.ndarray | None, ...] = ()
    order: int | None = None

    @property
    def name(self) -> str:
        """ "linear", "add" (of ``Tensor.__add__``), "causal_self_attention" ..."""
        return self.code.co_name.strip("_")

    @property
    def dy(self) -> np.ndarray | None:
        """The gradient of the result, with which the backward function was called."""
        return self.result.gradient

    def __repr__(self) -> str:
        shapes = ", ".join("None" if x is None else str(x.data.shape) for x in self.inputs)
        return f"<{self.index} {self.name} {self.path}: {shapes} -> {self.result.data.shape}>"


class Trace:
    """What was computed within ``with trace(model) as t:``, in order: ``t.operations``, ``t.values``."""

    def __init__(self, model: Module | None = None):
        self.operations: list[Operation] = []
        self.values: list[Value] = []
        self._model = model  # kept, so that the ids below stay its parts'
        self._names = {} if model is None else {id(p): name for name, p in reversed([*model.named_parameters()])}
        self._paths = {} if model is None else {id(model): "", **{id(m): name for name, m in named_modules(model)}}
        self._inside: list[str] = []  # the modules that are being called
        self._known: dict[Tensor, Value] = {}
        self._went_back = 0

    def find(self, path: str, name: str = "") -> list[Operation]:
        """The operations of a module ("h.0.attn") and of its parts, all or those of a name ("linear")."""
        below = [o for o in self.operations if not path or f"{o.path}.".startswith(f"{path}.")]
        return [o for o in below if name in ("", o.name)]

    def _called(self, call, module, *inputs, **named):
        self._inside.append(self._paths.get(id(module), self._inside[-1] if self._inside else ""))
        try:
            return call(module, *inputs, **named)
        finally:
            self._inside.pop()

    def _made(self, from_op, data, parents, backward):
        operation = Operation(
            index=len(self.operations),
            path=self._inside[-1] if self._inside else "",
            code=_operation_code(sys._getframe(2)),
            backward=backward,
            inputs=tuple(None if p is None else self._value(p) for p in parents),
            result=Value(np.array(data)),
        )

        def traced(dy, needs):
            operation.order = self._went_back
            self._went_back += 1
            operation.result.gradient = dy.copy()
            found = list(backward(dy, needs))
            operation.gradients = tuple(map(_contribution, found, operation.inputs, needs))
            return found

        traced.__qualname__ = getattr(backward, "__qualname__", "backward")  # the engine's errors quote it
        result = from_op(data, parents, traced if any(needs_grad(*parents)) else backward)
        operation.result.made_by = operation
        self.operations.append(operation)
        self.values.append(operation.result)
        self._known[result] = operation.result
        for i, value in enumerate(operation.inputs):
            if value is not None:
                value.used_by.append((operation, i))
        return result

    def _value(self, tensor):
        value = self._known.get(tensor)
        changed = value is not None and not value.made_by and not np.array_equal(value.data, tensor.data, True)
        if value is None or changed:  # an optimizer's step changes parameters in place
            value = self._known[tensor] = Value(np.array(tensor.data), self._names.get(id(tensor), ""))
            self.values.append(value)
        return value

    def _backward(self, backward, tensor, *arguments, **named):
        backward(tensor, *arguments, **named)
        for leaf, value in self._known.items():
            if value.made_by is None and leaf.grad is not None:
                value.gradient = leaf.grad.copy()


@contextmanager
def trace(model: Module | None = None) -> Iterator[Trace]:
    """Record every operation of the block: inputs, result, dy, and the gradients that it returned.

    model   gives paths to operations and names to parameters

    Everything is copied, so the record doesn't change any more, and takes as much memory as all that was computed. The
    results of the block are those of an untraced run, bit for bit. What other threads compute is not recorded. Raises
    RuntimeError inside of another trace. What is recorded when the block raises stays.

    >>> from npgpt import Tensor
    >>> x = Tensor([[1.0, 2.0]], requires_grad=True)
    >>> with trace() as t:
    ...     (x * 3).sum().backward()
    >>> t.operations
    [<0 mul : (1, 2), () -> (1, 2)>, <1 sum : (1, 2) -> ()>]
    >>> t.operations[0].dy, t.operations[0].inputs[0].gradient
    (array([[1., 1.]], dtype=float32), array([[3., 3.]], dtype=float32))
    """
    record = Trace(model)
    with intercepted(record._made, record._called, record._backward):
        yield record


def _operation_code(frame) -> CodeType:
    """The function that called Tensor.from_op, past private helpers such as ``_binary``."""
    while frame.f_code.co_name.startswith("_") and not frame.f_code.co_name.startswith("__"):
        frame = frame.f_back
    return frame.f_code


def _contribution(found, value, needed):
    """A copy of what goes to one input's gradient: the engine adds to these arrays in place."""
    if value is None or not needed or found is None:
        return None
    if not callable(found):
        return np.array(found)
    gradient = np.zeros_like(value.data)
    found(gradient)
    return gradient
