"""Constraints: which tokens may come next, so that a text matches a regular expression or is one of several choices.

    constraint = Regex(r"[0-9]{4}-[0-9]{2}", tokenizer)
    while not constraint.finished:
        id = ...  # draw from the tokens of constraint.allowed()
        constraint.push(id)

A token is allowed if its bytes can follow and some further tokens lead to the end. So a text never gets stuck, and a
text that is finished matches as a whole. One that the limit of tokens cuts off is the beginning of a text that matches.
"""

import copy
from collections.abc import Iterable
from typing import Self

import numpy as np

from npgpt.errors import ConfigError
from npgpt.generation.byte_automaton import (
    AT_END,
    DEAD,
    TOO_MANY_ARCS,
    Arc,
    ByteAutomaton,
    Pattern,
    Strings,
    Trie,
)
from npgpt.generation.regular_expression import parse
from npgpt.text.tokenizers import Tokenizer

MAX_MASKS = 1000  # kept at a time, V bytes each
MAX_LINKS = 500_000  # from an arc to those that a token leads to; finding so many takes seconds


class PatternConstraint:
    """What may follow in ONE text. ``copy`` makes another text's, which shares all that has been computed.

    pattern     what the text must be; a prompt is no part of it
    tokenizer   gives the bytes of each id
    vocab_size  V, the model's, which may be larger than the tokenizer's: further ids are never allowed
    stop_ids    ids that end a text, and are never part of it; None: the tokenizer's <|endoftext|>, if it has one

    Raises ConfigError if no text of these tokens matches, or if the pattern is too large.
    """

    def __init__(
        self,
        pattern: Pattern,
        tokenizer: Tokenizer,
        vocab_size: int | None = None,
        stop_ids: Iterable[int] | None = None,
    ):
        self._masks = _Masks(ByteAutomaton(pattern), tokenizer, vocab_size, stop_ids)
        self._state = self._masks.automaton.start
        self._stopped = False

    def allowed(self) -> np.ndarray:
        """(V,) of bool, read-only: the ids that may come next. The stop ids are among them where the text may end."""
        return self._masks.allowed(self._state)[0]

    def push(self, id: int) -> None:
        """Take the next id of the text. Raises ValueError if it is not allowed."""
        allowed = self.allowed()
        if not (0 <= id < len(allowed) and allowed[id]):
            raise ValueError(f"the id {id} is not allowed here")
        self._stopped = id in self._masks.stop_ids
        self._state = DEAD if self._stopped else self._masks.automaton.read(self._state, self._masks.strings[id])

    @property
    def may_end(self) -> bool:
        """Whether the text so far matches."""
        return self._stopped or self._masks.automaton.accepts(self._state)

    @property
    def finished(self) -> bool:
        """Whether the text matches and nothing more can follow, or a stop id has ended it."""
        return self._stopped or not self._masks.allowed(self._state)[1]

    def copy(self) -> Self:
        """The same constraint for another text that is equal so far."""
        return copy.copy(self)


class Regex(PatternConstraint):
    """A text that matches a regular expression as a whole. ``regular_expression`` says which notation can be used.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> constraint = Regex("ab?", ByteTokenizer())
    >>> np.flatnonzero(constraint.allowed()).tolist(), constraint.may_end
    ([97], False)
    >>> constraint.push(97)
    >>> np.flatnonzero(constraint.allowed()).tolist(), constraint.may_end  # b, or <|endoftext|>
    ([98, 256], True)
    """

    def __init__(
        self,
        expression: str,
        tokenizer: Tokenizer,
        vocab_size: int | None = None,
        stop_ids: Iterable[int] | None = None,
    ):
        super().__init__(parse(expression), tokenizer, vocab_size, stop_ids)


class Choices(PatternConstraint):
    """A text that is one of several. Raises TokenizerError if the tokenizer can't encode one of them.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> constraint = Choices(["yes", "no"], ByteTokenizer())
    >>> for id in b"yes":
    ...     constraint.push(id)
    >>> constraint.finished
    True
    """

    def __init__(
        self,
        texts: Iterable[str],
        tokenizer: Tokenizer,
        vocab_size: int | None = None,
        stop_ids: Iterable[int] | None = None,
    ):
        if isinstance(texts, str):
            raise ConfigError(f"choices must be several texts, not one: {texts!r}")
        texts = list(texts)
        for text in texts:
            tokenizer.encode(text)  # says what is wrong with it, if anything is
        strings = Strings(Trie.of_strings(text.encode() for text in texts))
        super().__init__(strings, tokenizer, vocab_size, stop_ids)


class _Masks:
    """The ids that are allowed in each state of an automaton, computed when first asked for."""

    def __init__(self, automaton, tokenizer, vocab_size, stop_ids):
        V = tokenizer.vocab_size if vocab_size is None else vocab_size
        self.automaton = automaton
        self.stop_ids = frozenset(tokenizer.stop_ids if stop_ids is None else stop_ids)
        if not self.stop_ids <= set(range(V)):
            raise ConfigError(f"stop_ids must be ids from 0 to {V - 1}, not {sorted(self.stop_ids)}")
        no_text = self.stop_ids | set(tokenizer.special.values()) | set(range(tokenizer.vocab_size, V))
        self.strings = [b"" if id in no_text else tokenizer.token_bytes(id) for id in range(V)]
        self._data = np.frombuffer(b"".join(self.strings), np.uint8)
        self._ends = np.cumsum([len(string) for string in self.strings])
        self._starts = self._ends - [len(string) for string in self.strings]
        self._allowed = {}  # {state: what ``allowed`` gives}
        single = {string[0] for string in self.strings if len(string) == 1}
        # With a token for each byte that is needed there is a way to the end from everywhere.
        self._leads_to_end = None if automaton.bytes_in_use() <= single else self._arcs_to_end()
        if not self._can_end(automaton.start):
            raise ConfigError("no text of the tokenizer's tokens matches the pattern: it needs others")
        self.allowed(automaton.start)  # a pattern that is too large is refused before a text begins

    def allowed(self, state):
        """-> (V,) of bool, whether a token that is no stop id is among them"""
        if state not in self._allowed:
            if len(self._allowed) >= MAX_MASKS:
                self._allowed.clear()
            states, reached = self._read_all(state)
            met = np.zeros(len(states), bool)
            met[reached] = True
            can_end = np.zeros(len(states), bool)
            for number in np.flatnonzero(met).tolist():
                can_end[number] = self._can_end(states[number])
            mask = can_end[reached]
            goes_on = bool(mask.any())
            mask[list(self.stop_ids)] = self.automaton.accepts(state)
            mask.flags.writeable = False
            self._allowed[state] = mask, goes_on
        return self._allowed[state]

    def _read_all(self, state):
        return self.automaton.read_all(state, self._data, self._starts, self._ends)

    def _can_end(self, state):
        """Whether tokens lead from the state to the end."""
        return state != DEAD and (self._leads_to_end is None or not self._leads_to_end.isdisjoint(state))

    def _arcs_to_end(self) -> set[Arc]:
        """All arcs from which whole tokens lead to the end.

        What can be read from a state is what can be read from any of its arcs. So it is enough to look at each arc
        alone, and of them there are few, whatever the number of states is.
        """
        before: dict[Arc, set[Arc]] = {}  # the arcs from which one token leads to an arc
        new = list(self.automaton.start)
        seen = set(new)
        links = 0
        while new:
            arc = new.pop()
            states, reached = self._read_all(frozenset([arc]))
            for number in np.unique(reached).tolist():
                links += len(states[number])
                if links > MAX_LINKS:
                    raise ConfigError(TOO_MANY_ARCS)
                for other in states[number]:
                    before.setdefault(other, set()).add(arc)
                    if other not in seen:
                        seen.add(other)
                        new.append(other)
        leads, new = {AT_END}, [AT_END]
        while new:
            earlier = before.get(new.pop(), set()) - leads
            leads |= earlier
            new += earlier
        return leads
