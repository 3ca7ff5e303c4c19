"""One text that is being made, and the choice of its next token."""

import copy
from numbers import Integral
from typing import Protocol, Self

import numpy as np

from npgpt.errors import ConfigError
from npgpt.generation.logprobs import new_token
from npgpt.generation.sampling import History, Sampling
from npgpt.generation.token import Token


class Constraint(Protocol):
    """What ONE text may go on with, as ``Regex`` and ``Choices`` say it."""

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing more can follow."""

    def allowed(self) -> np.ndarray:
        """(V,) of bool: the ids that may come next."""

    def push(self, id: int) -> None:
        """Take the id that did come next."""

    def copy(self) -> Self:
        """The same for another text that is equal so far."""


class TextInProgress:
    """A prompt and what has been added to it.

    row             the text's number among those that are made together
    ids             (n,) all of its ids so far; the first ``prompt_length`` are the prompt
    stop_ids, rng, constraint       of this text alone

    Raises ConfigError if the constraint allows nothing at all.
    """

    def __init__(
        self,
        row: int,
        prompt: np.ndarray,
        stop_ids: frozenset[int],
        rng: np.random.Generator,
        constraint: Constraint | None = None,
    ):
        self.row, self.prompt_length, self.length = row, len(prompt), len(prompt)
        self._memory = prompt.astype(np.int64)
        self.stop_ids, self.rng, self.constraint = stop_ids, rng, constraint
        if self.is_complete:
            raise ConfigError("the constraint allows no token")

    @property
    def ids(self) -> np.ndarray:
        return self._memory[: self.length]

    @property
    def is_complete(self) -> bool:
        """Whether the constraint is finished."""
        return self.constraint is not None and self.constraint.finished

    @property
    def has_ended(self) -> bool:
        """Whether its last id is one that ends a text, or the constraint is finished."""
        return int(self.ids[-1]) in self.stop_ids or self.is_complete

    def history(self) -> History:
        """What the choice of the next id may depend on."""
        allowed = None if self.constraint is None else self.constraint.allowed()
        return History(self.ids, self.prompt_length, self.stop_ids, allowed)

    def copy(self) -> "TextInProgress":
        """The text as it is now, to go on in another way. Both draw from the same ``rng``."""
        other = copy.copy(self)
        other._memory = self._memory.copy()
        other.constraint = self.constraint and self.constraint.copy()
        return other

    def push(self, id: int) -> None:
        """Add an id."""
        if self.length == len(self._memory):
            self._memory = np.concatenate([self._memory, np.empty_like(self._memory)])
        self._memory[self.length] = id
        self.length += 1
        if self.constraint is not None:
            self.constraint.push(id)


def check_limits(max_seconds: float | None, **limits: tuple[int | None, int]) -> None:
    """Raise ConfigError on an option that is too low, TypeError on one that is not a whole number.

    limits: {name: (value or None, the lowest)}

    >>> check_limits(None, logprobs=(-1, 0))
    Traceback (most recent call last):
    npgpt.errors.ConfigError: logprobs must be at least 0, not -1
    """
    for name, (value, lowest) in limits.items():
        if value is not None and not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        if value is not None and value < lowest:
            raise ConfigError(f"{name} must be at least {lowest}, not {value}")
    if max_seconds is not None and not max_seconds > 0:
        raise ConfigError(f"max_seconds must be above 0, not {max_seconds}")


def next_token(text: TextInProgress, logits: np.ndarray, sampling: Sampling, logprobs: int | None) -> Token:
    """Choose the token after a text by its logits (V,), and add it. ``logprobs``: how many likely ids come with it.

    Raises FloatingPointError as ``Sampling.next_token``.
    """
    id = sampling.next_token(logits, text.history(), text.rng)
    text.push(id)
    return new_token(text.row, id, logits, logprobs)
