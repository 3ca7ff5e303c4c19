"""An exercise: what the learner is asked, and how the answer is told from a wrong one."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.tensor import Tensor, no_grad


class NotAnAnswer(Exception):
    """What the learner's function returned can't be compared: the message says what it is, and what it must be."""


@dataclass(frozen=True)
class Case:
    """One call of the learner's function, with its arguments by name and in order.

    by_differences  whether the gradients are compared with central differences. Where these are too coarse (huge
                    values, infinity), the package's gradients say what is right
    """

    label: str
    arguments: dict[str, Any]
    by_differences: bool = True


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer: a function like the learner's. Whoever has the same wrong result gets the hint.

    None in its result stands for an output that this mistake doesn't concern.
    """

    wrong: Callable
    hint: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A function for the learner to write. The package's own code knows the answer.

    signature   of the function, as in "linear_backward(dy, x, W, b)"; ``gives``: what goes in and comes out
    outputs     the names of what is compared: ("dx", "dW", "db")
    forward     the package's operation, a function of the arguments without dy. The learner writes its backward
                function, which takes dy and then the same arguments, and gives a gradient for each x with "dx" in
                ``outputs``
    reference   if there is no ``forward``: the package's answer, as a function like the learner's
    drive       drive(function, *arguments) calls the function, maybe several times, and returns what is compared. None:
                it is called once
    """

    name: str
    title: str
    task: str
    read: str
    signature: str
    gives: str
    outputs: tuple[str, ...]
    cases: tuple[Case, ...]
    mistakes: tuple[Mistake, ...]
    forward: Callable | None = None
    reference: Callable | None = None
    drive: Callable | None = None

    @property
    def solution_is_in(self) -> str:
        """The package's own code: the last file to read."""
        return re.findall(r"npgpt/[\w/]+\.py", self.read)[-1]

    @property
    def function_name(self) -> str:
        """The name of the function that the learner writes."""
        return self.signature.partition("(")[0]

    def forward_pass(self, arguments: dict[str, Any]) -> np.ndarray:
        """The result of the package's ``forward``."""
        assert self.forward is not None
        with no_grad():
            return self.forward(*self._as_tensors(arguments).values()).data

    def solution(self, *arguments: Any) -> Any:
        """The package's answer, as a function like the learner's."""
        if self.forward is None:
            assert self.reference is not None
            return self.reference(*arguments)
        dy, *inputs = arguments
        tensors = self._as_tensors(dict(zip(self.cases[0].arguments, inputs, strict=True)))
        self.forward(*tensors.values()).backward(dy)
        gradients = tuple(tensors[name.removeprefix("d")].grad for name in self.outputs)
        return gradients if len(gradients) > 1 else gradients[0]

    def call(self, function: Callable, arguments: list) -> Any:
        """Call a function like the learner's, and return what is compared."""
        return self.drive(function, *arguments) if self.drive else function(*arguments)

    def _as_tensors(self, arguments):
        def tensor(x):
            return x if isinstance(x, Tensor) else Tensor(np.asarray(x), requires_grad=True)

        return {name: tensor(x) if f"d{name}" in self.outputs else x for name, x in arguments.items()}

    def file(self, check: str) -> str:
        """The text of the learner's file: the task, the command that grades it, and the function without a body."""
        task = self.task.strip("\n")
        if self.forward:
            task += "\n\nd in front of a name means the slope of the loss for it: its gradient."
        return f'''"""{self.title}

{task}

{_wrapped(f"Read: {self.read}")}
When you have written it: {check}
"""

import numpy as np


def {self.signature}:
    {_wrapped(f'"""{self.gives}"""', "    ")}
    ...  # write it here
'''


def _wrapped(text, indent="") -> str:
    """Lines of at most 79 columns; the first one stands behind the indent."""
    return textwrap.fill(text, 79, initial_indent=indent, subsequent_indent=indent).removeprefix(indent)
