"""Central differences: is a gradient that was written by hand the slope of its function?

    x   one of the inputs           y = f(x, ...)   the result, of any shape
    dy  a gradient of y             s = sum of dy * y, a scalar
    v   a direction, of x's shape   h   the step

The backward pass gives dx = ∂s/∂x = J^T dy, where J is the Jacobian of f. The function's values give

    slope along v = sum of dy * (f(x + h v) - f(x - h v)) / 2h          to be compared with         sum of dx * v

for any v. A direction that is 1 at one element and 0 elsewhere compares that element of dx. An input of up to 100
elements is compared element by element. A larger one is compared along one random direction, in which every element
moves by 0.5 to 1.5 with either sign. A single wrong element then always shows, since it moves by 0.5 or more; several
would have to cancel by chance. If the two disagree, the direction is halved until one wrong element is left.

dy is random in the same way (0.5 to 2, either sign). With ones, a backward pass that forgets dy would pass, and a
softmax, whose rows always add up to 1, would have no slope at all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from npgpt.tensor import Tensor, no_grad

# The slope has two errors. Rounding: y is wrong by eps |y|, so the slope is wrong by eps |y| / h. Truncation: in
# f(x + h) - f(x - h) = 2h f' + h^3 f''' / 3 + ... only the first term is wanted, so the slope is wrong by h^2 f''' / 6.
# If |y| and f''' are of one size, the two are about equal at h = eps^(1/3), and then eps^(2/3) = 4e-11 of that size
# (Press et al., Numerical Recipes, section 5.7). A thousand times that leaves room for rounding and a model's f'''.
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)  # 6e-6
TOLERANCE = 1000 * STEP**2  # 4e-8

EACH_ELEMENT_UP_TO = 100  # elements of an input: each costs two calls of f


@dataclass(frozen=True)
class Comparison:
    """One input's gradient beside the numerical one, where they differ most.

    name, shape     of the input
    ok              whether the error is within the tolerance
    error           |by_hand - numerical| / the largest of |by_hand|, |numerical| and the root of the sum of (dy y)^2,
                    whose rounding is in the numerical value (divided by |x| if that, and so the step, is larger than
                    1); infinite if anything isn't finite
    index           the element; None if the values are along a direction: the input is large and right, or no single
                    element is wrong
    by_hand         the backward pass's value there; None if this input received no gradient
    numerical       the value by central differences
    """

    name: str
    shape: tuple[int, ...]
    ok: bool
    error: float
    index: tuple[int, ...] | None
    by_hand: float | None
    numerical: float

    def __str__(self) -> str:
        place = str(list(self.index)) if self.index else ""
        by_hand = "none" if self.by_hand is None else f"{self.by_hand:.5g}"
        return f"d{self.name}{place}: by hand {by_hand}, numerically {self.numerical:.5g}"


@dataclass(frozen=True)
class Report:
    """The result of ``gradcheck``: a Comparison for each input, and the dy used. It is true if all gradients are right.

    ``assert report, report`` is a test that says what is wrong.
    """

    inputs: tuple[Comparison, ...]
    dy: np.ndarray = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether all gradients are right."""
        return all(comparison.ok for comparison in self.inputs)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def error(self) -> float:
        """The largest error of an input."""
        return max(comparison.error for comparison in self.inputs)

    def __str__(self) -> str:
        return "\n".join(f"{'ok   ' if c.ok else 'WRONG'}  {c}  (error {c.error:.1e})" for c in self.inputs)


def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[np.ndarray | Tensor],
    names: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Report:
    """Compare the gradients of ``f(*inputs)`` with central differences, in float64.

    f           takes one Tensor for each input and returns a Tensor of any shape. Other arguments (None, token ids, a
                mask, a seed) are bound in it: ``lambda x, w: ops.linear(x, w, None)``
    inputs      float64 arrays of any shapes, which are copied for f; or Tensors with requires_grad=True, such as a
                model's parameters, whose data and grad are changed meanwhile and restored at the end
    names       of the inputs, for the report; x0, x1 ... by default
    tolerance   the largest error (see ``Comparison``) that is right
    seed        of dy and of the directions
    -> Report   ``.ok``, ``.inputs``, ``.dy``; printed, a line for each input

    The gradients are those of ``f(*inputs).backward(report.dy)``. NaN and infinity in them are never right.

    Choose inputs away from kinks (relu has no slope at 0) and away from zeros of the gradient: the slope of x^3 at 0 is
    0, but over a step it isn't, and the error is relative. A gradient below 4e-8 of the results' size isn't checked: it
    may be lost in their rounding. Leave out large constants, and check outputs of very different size one by one.

    Raises TypeError if an input or the result is not float64; ValueError without inputs, on a Tensor that isn't a leaf
    with requires_grad=True, if the result isn't finite or changes when repeated (dropout), if f changes its inputs, or
    if its backward function returns an array that it keeps, since what is returned may be written to.

    Source: random projections as in HIPS/autograd's test_util and the fast mode of torch.autograd.gradcheck.

    >>> gradcheck(lambda x: (x * x).sum(), [np.array([1.0, 2.0])]).ok
    True
    """
    leaves = [_leaf(i, x) for i, x in enumerate(inputs)]
    if not leaves:
        raise ValueError("gradcheck needs at least one input")
    names = [f"x{i}" for i in range(len(leaves))] if names is None else list(names)
    if len(names) != len(leaves):
        raise ValueError(f"{len(names)} names for {len(leaves)} inputs")
    kept = [(leaf, leaf.data, leaf.grad) for leaf in leaves]
    rng = np.random.default_rng(seed)
    try:
        y, dy, gradients = _by_hand(f, leaves, rng)
        size = float(np.linalg.norm(dy * y))

        def compare(name, leaf, gradient):
            x = leaf.data

            def value(changed):
                leaf.data = np.asarray(changed)
                with no_grad():
                    return f(*leaves).data

            dx = np.zeros_like(x) if gradient is None else gradient  # None is right if f doesn't depend on x
            error, index, by_hand, numerical = _largest_error(value, x, dx, dy, size, tolerance, rng)
            leaf.data = x
            by_hand = None if gradient is None else by_hand
            return Comparison(name, x.shape, error <= tolerance, error, index, by_hand, numerical)

        return Report(tuple(map(compare, names, leaves, gradients)), dy)
    finally:
        for leaf, data, grad in kept:
            leaf.data, leaf.grad = data, grad


def _leaf(i, x) -> Tensor:
    if not isinstance(x, Tensor):
        x = np.array(x)
    elif not x.requires_grad or x._node is not None:
        raise ValueError(f"input {i} is a Tensor, and must be a leaf with requires_grad=True")
    if x.dtype != np.float64:
        raise TypeError(f"input {i} is {x.dtype}: only in float64 are differences exact enough")
    return x if isinstance(x, Tensor) else Tensor(x, requires_grad=True)


def _by_hand(f, leaves, rng):
    """-> y, dy and each leaf's gradient, None if the backward pass gave none"""
    originals = [leaf.data for leaf in leaves]
    for leaf in leaves:
        leaf.data, leaf.grad = leaf.data.copy(), None

    def check_inputs():
        for i, (leaf, original) in enumerate(zip(leaves, originals, strict=True)):
            if not np.array_equal(leaf.data, original, equal_nan=True):
                raise ValueError(f"f, or its backward pass, changes input {i}")

    y = f(*leaves)
    if not isinstance(y, Tensor) or y.dtype != np.float64:
        given = f"one of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"f must give a Tensor of float64, not {given}")
    check_inputs()
    values = y.data.copy()
    if not np.isfinite(values).all():
        raise ValueError("f's result is not finite, so there is nothing to compare")
    with no_grad():
        again = f(*leaves).data
    # A difference d between two calls makes one of d / h between slopes.
    if np.abs(again - values).max(initial=0) > TOLERANCE * STEP * np.abs(values).max(initial=0):
        raise ValueError("f gives another result when it is called again (dropout: fix its seed)")
    dy = rng.uniform(0.5, 2, y.shape) * rng.choice([-1.0, 1.0], y.shape)
    if not y.requires_grad:
        return values, dy, [None] * len(leaves)
    y.backward(dy)
    check_inputs()
    gradients = [leaf.grad for leaf in leaves]
    copies = [None if gradient is None else gradient.copy() for gradient in gradients]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = None
        if gradient is not None:
            gradient.fill(np.nan)  # as the engine may, to which it belongs
    check_inputs()
    f(*leaves).backward(dy)
    _check_nothing_is_kept(gradients, copies, [leaf.grad for leaf in leaves])
    for leaf in leaves:
        leaf.grad = None
    return values, dy, copies


def _check_nothing_is_kept(overwritten, first, second):
    """Raise ValueError if a backward function returns an array that it uses again.

    The gradients of a pass were overwritten with NaN after they had been copied (``first``). If such an array has other
    values now, the ``second`` pass has written into it; if the second pass gives other gradients, it has read from it.
    """
    for i, (array, right, again) in enumerate(zip(overwritten, first, second, strict=True)):
        if right is None or (np.isnan(array).all() and np.array_equal(again, right, equal_nan=True)):
            continue
        if np.isnan(array).all() and not np.isnan(again).any():
            raise ValueError(f"the backward pass gives another gradient of input {i} when it is repeated (a new mask?)")
        raise ValueError(f"the gradient of input {i} is an array that the backward pass keeps: return a copy")


def _largest_error(value, x, dx, dy, size, tolerance, rng):
    """-> error, index, by hand, numerical, where the error is largest; index is None along a direction"""

    def along(direction):
        moved = direction != 0
        h = STEP * max(1.0, float(np.abs(x[moved]).max()))  # a small step beside a large x would be lost in rounding
        difference = value(x + h * direction) - value(x - h * direction)
        by_hand = float((dx[moved] * direction[moved]).sum())
        numerical = float((dy * difference).sum() / (2 * h))
        return _error(by_hand, numerical, size * STEP / h), by_hand, numerical

    def only(elements, direction):
        """The direction at these elements, 0 elsewhere"""
        part = np.zeros_like(x)
        part.flat[elements] = direction.flat[elements]
        return part

    def at(i):
        error, by_hand, numerical = along(only(i, np.ones_like(x)))
        return error, tuple(map(int, np.unravel_index(i, x.shape))), by_hand, numerical

    if x.size <= EACH_ELEMENT_UP_TO:
        return max(map(at, range(x.size)), key=lambda found: found[0], default=(0.0, None, 0.0, 0.0))
    direction = rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape)
    error, by_hand, numerical = along(direction)
    if error <= tolerance:
        return error, None, by_hand, numerical
    elements = np.arange(x.size)
    while elements.size > 1:
        elements = max(np.array_split(elements, 2), key=lambda half: along(only(half, direction))[0])
    found = at(elements[0])
    return found if found[0] > tolerance else (error, None, by_hand, numerical)


def _error(by_hand, numerical, size) -> float:
    if not np.isfinite([by_hand, numerical, size]).all():
        return math.inf  # not NaN, with which every comparison is false
    largest = max(abs(by_hand), abs(numerical), size)
    return abs(by_hand - numerical) / largest if largest else 0.0
