"""Tensor: an array that remembers how it was made, so that gradients can be carried back through what made it.

Three parts: the record (``from_op``), the walk back through it (``walk_back``), and the operations that Python has
syntax for. The named ones (linear, layernorm, attention ...) have a file each in ``npgpt/ops``.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from npgpt import kernels

_recording = ContextVar("npgpt_recording", default=True)


def no_grad():
    """``with no_grad():`` nothing is recorded, so no memory is kept for a backward pass. ``@no_grad()`` works too."""
    return _recording_is(False)


def enable_grad():
    """``with enable_grad():`` everything is recorded, within ``no_grad`` too."""
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


class Node:
    """One entry in the record: how a result was made. It holds no values, only what ``backward`` captured."""

    __slots__ = ("backward", "dtype", "parents", "shape")

    def __init__(self, parents, backward, shape, dtype):
        self.parents = parents  # a Node for a result, the Tensor itself for a leaf, None where no gradient goes
        self.backward = backward
        self.shape = shape
        self.dtype = dtype


class Tensor:
    """An array of float32 or float64, its gradient, and how it was made.

    data           the values, a NumPy array
    grad           after ``backward()``, for a leaf: d result / d data, an array of the same shape; None before.
                   Gradients add up over several backward passes until they are set to None
    requires_grad  whether gradients are wanted: for a leaf it is said here, for a result it follows from its parents

    Numbers, lists and arrays of whole numbers become float32. Raises TypeError on anything else (complex, float16 ...).
    """

    __slots__ = ("__weakref__", "_node", "data", "grad", "requires_grad")
    __array_priority__ = 1000  # so that ndarray + Tensor is ours to answer
    __array_ufunc__ = None

    def __init__(self, data, requires_grad: bool = False):
        self.data = _as_float_array(data)
        self.grad = None
        self.requires_grad = requires_grad
        self._node = None

    @classmethod
    def from_op(cls, data: np.ndarray, parents, backward) -> "Tensor":
        """The result of an operation.

        parents     the tensors it was made from; None for an optional one that is absent
        backward    a function of dy, the gradient of ``data``, that returns one gradient for each parent (None where
                    there is none). A gradient that is zero nearly everywhere may be a function that adds it to an array
                    of the parent's shape. dy and what is returned belong to the walk, which may add to them in place.
                    The arrays that backward captures are what stays in memory until the backward pass has come by
        """
        result = cls(data)
        if _recording.get() and any(p is not None and p.requires_grad for p in parents):
            result.requires_grad = True
            sources = tuple(p._source() if p is not None and p.requires_grad else None for p in parents)
            result._node = Node(sources, backward, result.shape, result.dtype)
        return result

    def _source(self):
        return self if self._node is None else self._node

    def backward(self, grad=None) -> None:
        """Set ``grad`` of every leaf that this tensor was made from: d self / d leaf, added to what is there.

        ``grad`` is the gradient to start from, of this tensor's shape; left out, the tensor must hold a single number
        and it is 1. Raises RuntimeError if there is nothing to walk, ValueError on a wrong shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() of a tensor that depends on nothing with requires_grad=True")
        if grad is None:
            if self.size != 1:
                raise ValueError(f"backward() without a gradient needs a single number, not an array {self.shape}")
            grad = np.ones_like(self.data)
        grad = np.array(grad, self.dtype)
        if grad.shape != self.shape:
            raise ValueError(f"the gradient has shape {grad.shape}, and the tensor {self.shape}")
        for leaf, dy in walk_back(self, grad):
            if leaf.grad is None:
                leaf.grad = dy
            else:
                leaf.grad += dy

    # The shape of things

    @property
    def shape(self):
        return self.data.shape

    @property
    def ndim(self):
        return self.data.ndim

    @property
    def size(self):
        return self.data.size

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def T(self):
        return self.transpose()

    def item(self) -> float:
        """The number in a tensor that holds one."""
        return self.data.item()

    def numpy(self) -> np.ndarray:
        return self.data

    def detach(self) -> "Tensor":
        """The same values without the record."""
        return Tensor(self.data)

    def __len__(self):
        return len(self.data)

    def __repr__(self):
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    # Arithmetic, elementwise with NumPy's broadcasting. A number, list or array on the other side is a constant.

    def __add__(self, other):
        other = _constant(other, self)
        a, b = self.shape, other.shape
        return Tensor.from_op(
            self.data + other.data, (self, other), lambda dy: (unbroadcast(dy, a), unbroadcast(dy, b))
        )

    def __sub__(self, other):
        other = _constant(other, self)
        a, b = self.shape, other.shape
        return Tensor.from_op(
            self.data - other.data, (self, other), lambda dy: (unbroadcast(dy, a), unbroadcast(-dy, b))
        )

    def __mul__(self, other):
        """d(ab) = b da + a db"""
        other = _constant(other, self)
        a, b = self.data, other.data
        return Tensor.from_op(
            a * b, (self, other), lambda dy: (unbroadcast(dy * b, a.shape), unbroadcast(dy * a, b.shape))
        )

    def __truediv__(self, other):
        """d(a / b) = da / b - (a / b) db / b, in which, unlike in a / b^2, no square is too large or too small"""
        other = _constant(other, self)
        a, b = self.data, other.data
        return Tensor.from_op(
            a / b, (self, other), lambda dy: (unbroadcast(dy / b, a.shape), unbroadcast(-dy * (a / b) / b, b.shape))
        )

    def __pow__(self, exponent):
        """A constant power: d(x^n) = n x^(n - 1) dx"""
        if not isinstance(exponent, int | float):
            raise TypeError("the exponent must be a number")
        x, n = self.data, float(exponent)  # NumPy's own float64 would turn a float32 result into float64
        return Tensor.from_op(x**n, (self,), lambda dy: (dy * (n * x ** (n - 1)) if n else np.zeros_like(x),))

    def __neg__(self):
        return Tensor.from_op(-self.data, (self,), lambda dy: (-dy,))

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return _constant(other, self) - self

    def __rtruediv__(self, other):
        return _constant(other, self) / self

    def exp(self):
        """d exp(x) = exp(x) dx"""
        y = np.exp(self.data)
        return Tensor.from_op(y, (self,), lambda dy: (dy * y,))

    def log(self):
        """d log(x) = dx / x"""
        x = self.data
        return Tensor.from_op(np.log(x), (self,), lambda dy: (dy / x,))

    # Matrix product

    def __matmul__(self, other):
        """a (..., M, K) @ b (..., K, N) -> (..., M, N):  da = dy @ b.T, db = a.T @ dy (kernels/matmul.py derives it)"""
        other = _constant(other, self)
        a, b = self.data, other.data
        if a.ndim < 2 or b.ndim < 2:
            raise ValueError(f"@ takes matrices or stacks of them, not {a.shape} and {b.shape}")

        def backward(dy):
            da = _matmul(dy, b.swapaxes(-1, -2))
            db = _matmul(a.swapaxes(-1, -2), dy)
            return unbroadcast(da, a.shape), unbroadcast(db, b.shape)

        return Tensor.from_op(_matmul(a, b), (self, other), backward)

    def __rmatmul__(self, other):
        return _constant(other, self) @ self

    # Sums, and other shapes for the same numbers

    def sum(self, axis=None, keepdims=False):
        """Each number goes into one sum with weight 1, so the sum's gradient comes back to each of them."""
        shape = self.shape

        def backward(dy):
            if axis is not None and not keepdims:
                dy = np.expand_dims(dy, axis)
            return (np.broadcast_to(dy, shape),)

        return Tensor.from_op(np.asarray(self.data.sum(axis=axis, keepdims=keepdims)), (self,), backward)

    def mean(self, axis=None, keepdims=False):
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size if self.size else np.nan)

    def reshape(self, *shape):
        before = self.shape
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return Tensor.from_op(self.data.reshape(shape), (self,), lambda dy: (dy.reshape(before),))

    def transpose(self, *axes):
        """Axes in a new order; without arguments, in reverse order. Back: the inverse permutation."""
        axes = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
        axes = tuple(a % self.ndim for a in axes) or tuple(reversed(range(self.ndim)))
        return Tensor.from_op(self.data.transpose(axes), (self,), lambda dy: (dy.transpose(np.argsort(axes)),))

    def __getitem__(self, index):
        """A selection. Back: each share goes to where it was taken from; what was taken twice collects twice."""
        if isinstance(index, Tensor):
            raise TypeError("index with whole numbers, slices or NumPy arrays, not with a Tensor")

        def backward(dy):
            return (lambda dx: np.add.at(dx, index, dy),)

        return Tensor.from_op(np.asarray(self.data[index]), (self,), backward)


def unbroadcast(gradient: np.ndarray, shape: tuple) -> np.ndarray:
    """Undo broadcasting: where NumPy repeated an input of ``shape`` along an axis, the shares of the copies add up."""
    if gradient.shape == shape:
        return gradient
    added = tuple(range(gradient.ndim - len(shape)))
    stretched = tuple(i + len(added) for i, n in enumerate(shape) if n == 1 and gradient.shape[i + len(added)] != 1)
    return gradient.sum(axis=added + stretched, keepdims=True).reshape(shape)


def _matmul(a, b):
    if a.ndim == 2 and b.ndim == 2:
        return kernels.matmul(a, b)
    if b.ndim == 2 and a.ndim > 2:  # a stack of matrices times one matrix is one tall matrix times it
        rows = math.prod(a.shape[:-1])
        return kernels.matmul(a.reshape(rows, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return np.matmul(a, b)


def _as_float_array(data) -> np.ndarray:
    if isinstance(data, Tensor):
        raise TypeError("a Tensor is one already; use .detach() for a copy without its record")
    array = np.asarray(data)
    if array.dtype in (np.float32, np.float64) and isinstance(data, np.ndarray | np.floating):
        return array
    if array.dtype.kind in "iub" or (array.dtype == np.float64 and not isinstance(data, np.ndarray)):
        return array.astype(np.float32)
    raise TypeError(f"a Tensor holds float32 or float64, not {array.dtype}")


def _constant(other, like) -> Tensor:
    """What stands on the other side of an operator, as a tensor; numbers, lists and arrays take ``like``'s dtype."""
    if isinstance(other, Tensor):
        if other.dtype != like.dtype:
            raise TypeError(f"operands are {like.dtype} and {other.dtype}; make them the same")
        return other
    array = np.asarray(other)
    if array.dtype.kind not in "biuf":  # None would become NaN
        raise TypeError(f"a Tensor can't be combined with {type(other).__name__}")
    return Tensor(array.astype(like.dtype))


def walk_back(result: Tensor, grad: np.ndarray):
    """From ``grad``, the gradient of ``result``, to (leaf, its gradient) of every leaf that it was made from.

    Nodes are taken in reverse topological order: a result is passed on only when all that was made from it has handed
    its share back. In

        b = a + a
        c = b + b

    c hands b two shares of 1; b must wait for both and then hand a two shares of 2, so a.grad = 4. A walk that goes on
    to a at the first share would count twice. The walk is a loop, not a recursion, so depth has no limit; and it lets
    go of each node as it passes, so memory falls while gradients appear. The graph can be walked once.
    """
    order = _topological_order(result._source())
    gradients = {id(result._source()): grad}
    while order:
        source = order.pop()
        dy = gradients.pop(id(source), None)
        if dy is None:
            continue
        if isinstance(source, Tensor):
            yield source, dy
        else:
            _hand_back(source, dy, gradients)


def _topological_order(result):
    """Everything that gradients pass through on the way from ``result``, each after all that it was made from."""
    order, seen, stack = [], set(), [(result, False)]
    while stack:
        source, parents_done = stack.pop()
        if parents_done:
            order.append(source)
        elif id(source) not in seen:
            seen.add(id(source))
            stack.append((source, True))
            if isinstance(source, Node):
                stack.extend((p, False) for p in source.parents if p is not None)
    return order


def _hand_back(node, dy, gradients):
    """Ask one node for its parents' shares and add them to ``gradients``, {id of a source: array}."""
    parents, backward = node.parents, node.backward
    node.parents, node.backward = (), _already_walked
    shares = [share if share is None or callable(share) else np.asarray(share) for share in backward(dy)]
    if len(shares) != len(parents):
        raise RuntimeError(f"{backward.__qualname__} returned {len(shares)} gradients for {len(parents)} parents")
    for i, (parent, share) in enumerate(zip(parents, shares, strict=True)):
        if parent is None or share is None:
            continue
        if callable(share):
            if id(parent) not in gradients:
                gradients[id(parent)] = np.zeros(parent.shape, parent.dtype)
            share(gradients[id(parent)])
            continue
        if share.shape != parent.shape or share.dtype != parent.dtype:
            raise RuntimeError(
                f"{backward.__qualname__} returned a gradient {share.shape} {share.dtype} "
                f"for its input {i}, which is {parent.shape} {parent.dtype}"
            )
        if id(parent) in gradients:
            gradients[id(parent)] += share
        else:
            # The first share is kept and others are added to it, so it must be nobody else's. dy itself may be: here is
            # its end. But what comes after this share, for another parent, must not be made of the same memory.
            gradients[id(parent)] = share.copy() if _is_needed(share, shares[i + 1 :]) else share


def _is_needed(share, others):
    """Whether an array can't be written to yet: because of what it is a view of, or of what else is made from it."""
    return not share.flags.writeable or any(
        callable(other) or (other is not None and np.may_share_memory(share, other)) for other in others
    )


def _already_walked(dy):
    raise RuntimeError("backward() has been through this graph already and let go of it; compute the result again")
