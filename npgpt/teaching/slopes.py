"""Slopes: the loss a little to both sides of one element, computed by the model itself in float64.

If x is one element of a parameter or of an operation's result, and everything else stays,

    slope = (loss(x + h) - loss(x - h)) / 2h

is its gradient, but for an error of some h^2 and of rounding. No formula of a backward pass takes part in it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from npgpt.gpt import GPT
from npgpt.layers import allocate
from npgpt.teaching.interception import intercepted
from npgpt.teaching.trace import Value
from npgpt.tensor import no_grad

STEP = float(np.finfo(np.float64).eps) ** (1 / 3)  # where rounding, eps / h, and what is cut off, h^2, are equal


@dataclass(frozen=True)
class Slope:
    """One element, the loss at x + h and at x - h, and its gradient from the backward pass."""

    index: tuple[int, ...]
    x: float
    h: float
    plus: float
    minus: float
    gradient: float

    @property
    def slope(self) -> float:
        return (self.plus - self.minus) / (2 * self.h)


class Slopes:
    """Slopes of the elements of a trace whose loss was model.loss(ids, targets), without dropout."""

    def __init__(self, model: GPT, ids: ArrayLike, targets: ArrayLike):
        self._ids, self._targets = ids, targets
        self._model = GPT.empty(model.config, np.float64)
        for p, given in zip(self._model.parameters(), model.parameters(), strict=True):
            allocate(p)[...] = given.data
        self._parameters = dict(self._model.named_parameters())

    def at(self, value: Value) -> Slope:
        """The slope at the element with the largest gradient; the first of several.

        Raises ValueError if the value has no gradient, or is neither a parameter nor a result.
        """
        if value.gradient is None or not (value.parameter or value.made_by):
            raise ValueError("a slope is of a parameter, or of an operation's result, that has a gradient")
        place = int(np.abs(value.gradient).argmax())
        index = tuple(int(i) for i in np.unravel_index(place, value.data.shape))
        x = float(value.data[index])
        h = STEP * max(1.0, abs(x))
        plus, minus = (self._loss(value, index, step) for step in (h, -h))
        return Slope(index, x, h, plus, minus, float(value.gradient[index]))

    def _loss(self, value, index, step):
        """The loss if one element is larger by ``step``."""
        made = 0

        def moved(from_op, data, parents, backward):
            nonlocal made
            if value.made_by and made == value.made_by.index:
                data = np.array(data)
                data[index] += step
            made += 1
            return from_op(data, parents, backward)

        array = self._parameters[value.parameter].data if value.parameter else None
        before = None if array is None else array[index]
        if array is not None:
            array[index] += step
        try:
            with no_grad(), intercepted(moved):
                return self._model.loss(self._ids, self._targets).item()
        finally:
            if array is not None:
                array[index] = before
