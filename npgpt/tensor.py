"""Tensor: an array that remembers how it was made, with the operations that Python has syntax for.

What the letter d means, in every file. A computation ends in one number, the loss. For every array x on the way there,

    dx = ∂loss/∂x       the gradient of x, of x's shape: dx[k] says how fast the loss grows when x[k] grows

and d in front of a name means nothing else; other derivatives are written with ∂. If y is computed from x, then x_k
changes the loss through every y_j that depends on it, and these changes add up. That is the chain rule:

    dx_k = sum_j dy_j ∂y_j/∂x_k         with the matrix J_jk = ∂y_j/∂x_k, the Jacobian:  dx = J^T dy

The backward function of an operation takes dy and returns dx by this rule, without building J. Where y_k = f(x_k) for
each element by itself, the sum has one term: dx = dy f'(x). An array that is used twice receives two contributions:

>>> a = Tensor([1.0], requires_grad=True)
>>> b = a + a  # da = db + db
>>> c = b + b  # db = dc + dc, and dc = 1, since c is the loss
>>> c.backward()
>>> a.grad
array([4.], dtype=float32)

autograd.py has the record and the way back through it. Operations with names (linear ...) have a file each in ops/.
"""

import copy
import math
from collections.abc import Callable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels
from npgpt.autograd import Node, backpropagate, enable_grad, is_grad_enabled, needs_grad, no_grad, unbroadcast

__all__ = ["Tensor", "check_tensors", "enable_grad", "is_grad_enabled", "needs_grad", "no_grad", "unbroadcast"]


class Tensor:
    """An array of float32 or float64, its gradient, and how it was made.

    data           the values, a NumPy array
    grad           the gradient of a leaf after ``backward()``, an array of data's shape; None before. The gradients
                   of several backward passes add up until this is set to None
    requires_grad  whether a gradient is wanted. For a leaf it is said here. A result needs one if a parent does

    Python's numbers and lists become float32, and so do arrays of whole numbers or bool. NumPy's float32 and float64
    stay what they are, and don't mix; an array of these is not copied. Raises TypeError on anything else (complex,
    float16 ...).

    What ``data`` holds must not be changed between an operation and its backward pass, which reads it again: dx would
    silently be that of the new values.
    """

    __slots__ = ("__weakref__", "_node", "data", "grad", "requires_grad")
    __array_priority__ = 1000  # ndarray + Tensor calls Tensor.__radd__
    __array_ufunc__ = None

    def __init__(self, data: ArrayLike, requires_grad: bool = False):
        self.data = _as_float_array(data)
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad
        self._node: Node | None = None

    @classmethod
    def from_op(cls, data: np.ndarray, parents: tuple, backward: Callable) -> "Tensor":
        """Make the result of an operation, and record how it was made.

        parents     the tensors it was computed from; None for an optional one that is absent
        backward    backward(dy, needs) -> a gradient for each parent, in their order. dy is the gradient of ``data``.
                    needs[i] says whether parent i's gradient is needed; another one is ignored. None means zero.
                    Instead of an array that is mostly zero, it may return a function, which is called with an array
                    of the parent's shape and adds the gradient to it.

        The arrays that ``backward`` captures stay in memory until the backward pass. dy and the returned arrays belong
        to the engine, which may write to them.

        >>> def square(x):
        ...     return Tensor.from_op(x.data**2, (x,), lambda dy, needs: (2 * x.data * dy,))
        >>> x = Tensor([3.0], requires_grad=True)
        >>> square(x).backward()
        >>> x.grad
        array([6.], dtype=float32)
        """
        result = cls(data)
        check_tensors(*parents)
        needs = needs_grad(*parents)
        if any(needs):
            result.requires_grad = True
            sources = tuple(p.source if need else None for p, need in zip(parents, needs, strict=True))
            result._node = Node(sources, backward, result.shape, result.dtype)
        return result

    @property
    def source(self) -> "Node | Tensor":
        """What this tensor's gradient belongs to: the Node that made it, or the tensor itself if it is a leaf."""
        return self if self._node is None else self._node

    def backward(self, grad: np.ndarray | None = None, done: Callable[["Tensor"], None] | None = None) -> None:
        """Compute the gradients of all leaves that this tensor depends on, and add each to its leaf's ``grad``.

        grad    this tensor's own gradient, of its shape; 1 if left out: then this tensor, of one element, is the loss
        done    called with each leaf as soon as its gradient is complete, while others are still to come

        Raises RuntimeError if this tensor depends on nothing with requires_grad, ValueError on a wrong shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() of a tensor that depends on nothing with requires_grad=True")
        if grad is None:
            if self.size != 1:
                raise ValueError(f"backward() without a gradient needs one element, not an array {self.shape}")
            grad = np.ones_like(self.data)
        grad = np.array(grad, self.dtype)
        if grad.shape != self.shape:
            raise ValueError(f"the gradient has shape {grad.shape}, and the tensor {self.shape}")
        for leaf, dy in backpropagate(self, grad):
            if leaf.grad is None:
                leaf.grad = dy
            else:
                leaf.grad += dy
            if done is not None:
                done(leaf)

    # Properties of the array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def T(self) -> "Tensor":
        return self.transpose()

    def item(self) -> float:
        """The element of a tensor that has one."""
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """The array itself, which shares the tensor's memory."""
        return self.data

    def detach(self) -> "Tensor":
        """The same array, not a copy, without the record."""
        return Tensor(self.data)

    if not TYPE_CHECKING:  # which would take a Tensor for an ArrayLike

        def __array__(self, *arguments, **options):
            raise TypeError("a Tensor is no array: take its data, which has no record, as x.data")

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.data.item())

    def __bool__(self) -> bool:
        """Of one element: whether it isn't 0. Raises ValueError of none or several, as NumPy does."""
        return bool(self.data)

    def __format__(self, form: str) -> str:
        """As its number, if a form is given: f"{loss:.3f}"."""
        return format(self.item(), form) if form else str(self)

    def __deepcopy__(self, memo: dict) -> "Tensor":
        """A copy of a leaf and its gradient. A result's copy would send gradients to copies of its parents."""
        if self._node is not None:
            raise RuntimeError("only a leaf can be copied, not a result: copy x.detach()")
        memo[id(self)] = copied = Tensor(copy.deepcopy(self.data, memo), self.requires_grad)
        copied.grad = copy.deepcopy(self.grad, memo)
        return copied

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    # Arithmetic, elementwise with NumPy's broadcasting. A number, list or array as the other operand is a constant.

    def __add__(self, other: "Tensor | ArrayLike") -> "Tensor":
        """y = a + b:  da = dy,  db = dy"""
        other = _constant(other, self)
        return _binary(self.data + other.data, self, other, lambda dy: dy, lambda dy: dy)

    def __sub__(self, other: "Tensor | ArrayLike") -> "Tensor":
        """y = a - b:  da = dy,  db = -dy"""
        other = _constant(other, self)
        return _binary(self.data - other.data, self, other, lambda dy: dy, lambda dy: -dy)

    def __mul__(self, other: "Tensor | ArrayLike") -> "Tensor":
        """y = a b:  da = dy b,  db = dy a"""
        other = _constant(other, self)
        a, b = self.data, other.data
        return _binary(a * b, self, other, lambda dy: dy * b, lambda dy: dy * a)

    def __truediv__(self, other: "Tensor | ArrayLike") -> "Tensor":
        """y = a / b:  da = dy / b,  db = -dy a / b^2 = -dy (a / b) / b, in which no square overflows"""
        other = _constant(other, self)
        a, b = self.data, other.data
        return _binary(a / b, self, other, lambda dy: dy / b, lambda dy: -dy * (a / b) / b)

    def __pow__(self, exponent: float) -> "Tensor":
        """y = x^n, where n is a constant:  dx = dy n x^(n - 1);  0 if n = 0, also where x^(n - 1) is infinite"""
        if not isinstance(exponent, Real):
            raise TypeError("the exponent must be a number")
        x, n = self.data, float(exponent)  # NumPy's own float64 would turn a float32 result into float64
        return Tensor.from_op(x**n, (self,), lambda dy, needs: (dy * (n * x ** (n - 1)) if n else np.zeros_like(x),))

    def __neg__(self) -> "Tensor":
        """y = -x:  dx = -dy"""
        return Tensor.from_op(-self.data, (self,), lambda dy, needs: (-dy,))

    __radd__, __rmul__ = __add__, __mul__

    # x -= y makes a new tensor, as x = x - y does. So p -= lr * p.grad would not change the parameter: it raises.

    def __iadd__(self, other: "Tensor | ArrayLike") -> "Tensor":
        return _without_gradient(self) + other

    def __isub__(self, other: "Tensor | ArrayLike") -> "Tensor":
        return _without_gradient(self) - other

    def __rsub__(self, other: "Tensor | ArrayLike") -> "Tensor":
        return _constant(other, self) - self

    def __rtruediv__(self, other: "Tensor | ArrayLike") -> "Tensor":
        return _constant(other, self) / self

    def exp(self) -> "Tensor":
        """y = exp(x):  dx = dy exp(x) = dy y"""
        y = np.exp(self.data)
        return Tensor.from_op(y, (self,), lambda dy, needs: (dy * y,))

    def log(self) -> "Tensor":
        """y = log(x):  dx = dy / x"""
        x = self.data
        return Tensor.from_op(np.log(x), (self,), lambda dy, needs: (dy / x,))

    # Matrix product

    def __matmul__(self, other: "Tensor | ArrayLike") -> "Tensor":
        """a (..., M, K) @ b (..., K, N) -> (..., M, N):  da = dy b^T,  db = a^T dy (derived in ops/linear.py)"""
        other = _constant(other, self)
        a, b = self.data, other.data
        if a.ndim < 2 or b.ndim < 2:
            raise ValueError(f"@ takes matrices or stacks of them, not {a.shape} and {b.shape}")
        da, db = lambda dy: _matmul(dy, b.swapaxes(-1, -2)), lambda dy: _matmul(a.swapaxes(-1, -2), dy)
        return _binary(_matmul(a, b), self, other, da, db)

    def __rmatmul__(self, other: "Tensor | ArrayLike") -> "Tensor":
        return _constant(other, self) @ self

    # Sums, and other shapes of the same elements

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        """Each element is in one sum, and ∂sum/∂x_k = 1, so dx_k is the gradient of that sum."""
        shape = self.shape

        def backward(dy, needs):
            if axis is not None and not keepdims:
                dy = np.expand_dims(dy, axis)
            return (np.broadcast_to(dy, shape),)

        return Tensor.from_op(np.asarray(self.data.sum(axis=axis, keepdims=keepdims)), (self,), backward)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        """The sum divided by the number of its elements; NaN if there are none."""
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size if self.size else np.nan)

    def reshape(self, *shape: Any) -> "Tensor":
        """The same elements in another shape, ``reshape(2, 3)`` or ``reshape((2, 3))``. dx is dy in x's shape."""
        before = self.shape
        return Tensor.from_op(self.data.reshape(*shape), (self,), lambda dy, needs: (dy.reshape(before),))

    def transpose(self, *axes: Any) -> "Tensor":
        """Axes in a new order; without arguments, in reverse order. dx is dy with its axes put back."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
        y = self.data.transpose(order if axes else None)
        back = np.argsort([a % self.ndim for a in order] if axes else range(self.ndim)[::-1])
        return Tensor.from_op(y, (self,), lambda dy, needs: (dy.transpose(back),))

    def __getitem__(self, index: Any) -> "Tensor":
        """A selection. Each dy is added to the dx of the element that was taken; one taken twice receives two."""
        if isinstance(index, Tensor):
            raise TypeError("index with whole numbers, slices or NumPy arrays, not with a Tensor")
        index = copy.deepcopy(index)  # an array of indices may be filled anew before the backward pass
        y = np.asarray(self.data[index])
        return Tensor.from_op(y, (self,), lambda dy, needs: (lambda dx: np.add.at(dx, index, dy),))


def check_tensors(*inputs: Any) -> None:
    """Raise TypeError unless each is a Tensor or None. An array would be mistaken for one: it has ``data``, too."""
    for x in inputs:
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(f"a Tensor is expected here, not {type(x).__name__}: Tensor(x) makes one of an array")


def _without_gradient(x) -> Tensor:
    if x.grad is not None:
        raise TypeError("+= and -= make a new tensor, and leave the parameter as it was: change its data, p.data")
    return x


def _binary(y, a, b, da, db) -> Tensor:
    """The result y of operands a and b. da(dy) and db(dy) are their gradients, still in y's shape."""
    shapes = a.shape, b.shape

    def backward(dy, needs):
        pairs = zip((da, db), shapes, needs, strict=True)
        return [unbroadcast(gradient(dy), shape) if need else None for gradient, shape, need in pairs]

    return Tensor.from_op(y, (a, b), backward)


def _matmul(a, b):
    if a.ndim == 2 and b.ndim == 2:
        return kernels.matmul(a, b)
    if b.ndim == 2 and a.ndim > 2:  # a stack of matrices times one matrix is one tall matrix times it
        rows = math.prod(a.shape[:-1])
        return kernels.matmul(a.reshape(rows, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return np.matmul(a, b)


def _as_float_array(data) -> np.ndarray:
    if isinstance(data, Tensor):
        raise TypeError("a Tensor is one already; use .detach() for the same array without its record")
    array = np.asarray(data)
    if array.dtype in (np.float32, np.float64) and isinstance(data, np.ndarray | np.floating):
        return array
    if array.dtype.kind in "iub" or (array.dtype == np.float64 and not isinstance(data, np.ndarray)):
        return array.astype(np.float32)
    raise TypeError(f"a Tensor holds float32 or float64, not {array.dtype}")


def _constant(other, like) -> Tensor:
    """An operator's other operand as a tensor: a number, list or array becomes a constant of ``like``'s dtype."""
    if isinstance(other, Tensor):
        if other.dtype != like.dtype:
            raise TypeError(f"operands are {like.dtype} and {other.dtype}; make them the same")
        return other
    array = np.asarray(other)
    if array.dtype.kind not in "biuf":  # None would become NaN
        raise TypeError(f"a Tensor can't be combined with {type(other).__name__}")
    return Tensor(array.astype(like.dtype))
