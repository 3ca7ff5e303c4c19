"""An automaton over bytes: which bytes can follow, and where a text may end. Constraints on a text are compiled to it.

Tokens of a byte-pair encoding are bytes, often a part of a character, so a constraint that is asked about tokens reads
bytes too. A pattern is made of four things, which ``regular_expression.parse`` finds in a regular expression:

    Strings     one of a set of byte strings: a character in UTF-8, any character of a class, one of several texts
    Sequence    one thing after the other
    Either      one of several
    Repeat      one thing several times

Thompson's construction (1968) makes a nondeterministic automaton of them, which can be at several places of the pattern
at once. The set of these places is one state of a deterministic automaton. Its states are made when they are first
needed, as in RE2 (Cox 2010, "Regular Expression Matching in the Wild"): most patterns have few, some have 2^n, and a
text meets at most one for each of its bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from npgpt.errors import ConfigError

CODE_POINTS = 0x110000
SURROGATES = slice(0xD800, 0xE000)  # code points that are no characters; UTF-8 has none of them
# The longer forms of UTF-8 (RFC 3629, section 3): the first byte counts blocks of code points, from a number on, and
# each further byte, from 0x80 on, has six bits of the place in the block. A code point has its shortest form only.
# (number, size of a block, first code point, end)
UTF8_FORMS = ((0xC0, 64, 0x80, 0x800), (0xE0, 64**2, 0x800, 0x10000), (0xF0, 64**3, 0x10000, CODE_POINTS))

MAX_PLACES = 10_000
# What is beyond is forgotten and made again when needed. A state takes 1 KiB, and some 100 bytes for each of its arcs.
MAX_STATES = 20_000
MAX_ARCS = 2_000_000  # of all states; one call may also make no more than so many, which takes seconds
TOO_MANY_ARCS = (
    "the pattern is too large: a text can be in too many of its repetitions at once.\n"
    "Use smaller numbers in {m,n}, or * and +."
)


@dataclass(slots=True, eq=False)
class Trie:
    """A set of byte strings. ``edges`` leads from a first byte to the rest; ``final``: the empty string is one of them.

    >>> trie = Trie.of_strings([b"to", b"tea"])
    >>> sorted(map(chr, trie.edges[ord("t")].edges))
    ['e', 'o']
    """

    edges: dict[int, "Trie"]
    final: bool = False

    @classmethod
    def of_strings(cls, strings: Iterable[bytes]) -> "Trie":
        """These byte strings."""
        root = cls({})
        for string in strings:
            node = root
            for byte in string:
                node = node.edges.setdefault(byte, cls({}))
            node.final = True
        return root

    @classmethod
    def of_characters(cls, member: np.ndarray) -> "Trie":
        """The characters whose code points are marked, each as its UTF-8.   member (0x110000,) of bool"""
        blocks: dict[bytes, Trie] = {}  # equal blocks of code points are one node

        def rest(block):
            key = block.tobytes()
            if key not in blocks:
                parts = block.reshape(64, -1)
                marked = np.flatnonzero(parts.any(axis=1)).tolist()
                blocks[key] = cls({0x80 + i: EMPTY if len(block) == 64 else rest(parts[i]) for i in marked})
            return blocks[key]

        edges = dict.fromkeys(np.flatnonzero(member[:0x80]).tolist(), EMPTY)
        for lead, size, first, end in UTF8_FORMS:
            marked = np.zeros(-(-end // size) * size, bool)
            marked[first:end] = member[first:end]
            marked[SURROGATES] = False
            edges |= {lead + i: rest(block) for i, block in enumerate(marked.reshape(-1, size)) if block.any()}
        return cls(edges)


EMPTY = Trie({}, final=True)  # the empty string alone


@dataclass(frozen=True)
class Strings:
    """One of the byte strings of a trie."""

    trie: Trie


@dataclass(frozen=True)
class Sequence:
    """All parts, in this order."""

    parts: tuple["Pattern", ...]


@dataclass(frozen=True)
class Either:
    """One of the options."""

    options: tuple["Pattern", ...]


@dataclass(frozen=True)
class Repeat:
    """``item`` at least ``least`` times and at most ``most`` times; None: without a limit."""

    item: "Pattern"
    least: int
    most: int | None


Pattern = Strings | Sequence | Either | Repeat
# What the automaton can still read: a string of a trie, then what follows at a place of the pattern.
Arc = tuple[Trie, int]
END = 0  # the place after the whole pattern
AT_END: Arc = (EMPTY, END)
State = frozenset[Arc]
DEAD: State = frozenset()


class ByteAutomaton:
    """Reads bytes, one after the other. Raises ConfigError if no text matches the pattern, or if it is too large.

    A state is the set of arcs on which the automaton can be. From each of them the end can be reached, so a state is
    either DEAD, which is empty, or what has been read is the beginning of a text that matches.

    >>> automaton = ByteAutomaton(Repeat(Strings(Trie.of_strings([b"ab"])), 1, 2))
    >>> [automaton.accepts(automaton.read(automaton.start, text)) for text in (b"", b"ab", b"aba", b"abab")]
    [False, True, False, True]
    >>> automaton.read(automaton.start, b"ababa") == DEAD
    True
    """

    def __init__(self, pattern: Pattern):
        self._arcs: list[list[Arc]] = [[]]  # of each place; the first is END
        start = self._place(pattern, END)
        if start is None:
            raise ConfigError("no text matches the pattern")
        self._forget()
        self.start: State = self._closure([(EMPTY, start)])

    def accepts(self, state: State) -> bool:
        """Whether a text may end here."""
        return AT_END in state

    def read(self, state: State, string: bytes) -> State:
        """The state after ``string``; DEAD if it can't follow."""
        self._make_room()
        number = self._number(state)
        for byte in string:
            self._expand(number)
            number = int(self._table[number, byte])
        return self._states[number]

    def read_all(
        self, state: State, data: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[list[State], np.ndarray]:
        """The states after each of V strings -> all states that were reached, and (V,) which of them; 0 is DEAD.

        String i is data[starts[i] : ends[i]] of data (bytes,) uint8. DEAD comes of a string without bytes, too. Raises
        ConfigError if the states have too many arcs.
        """
        self._make_room()
        reached = np.zeros(len(starts), np.int64)
        strings = np.flatnonzero(ends > starts)
        at, numbers = starts[strings], np.full(len(strings), self._number(state))
        while len(strings):
            self._expand_all(numbers)
            numbers = self._table[numbers, data[at]]
            at = at + 1
            complete = at == ends[strings]
            reached[strings[complete]] = numbers[complete]
            going_on = (numbers > 0) & ~complete
            strings, at, numbers = strings[going_on], at[going_on], numbers[going_on]
        return self._states, reached

    def bytes_in_use(self) -> set[int]:
        """The bytes that texts which match consist of."""
        found, seen = set(), set()
        stack = [trie for arcs in self._arcs for trie, _ in arcs]
        while stack:
            trie = stack.pop()
            if trie not in seen:
                seen.add(trie)
                found |= trie.edges.keys()
                stack += trie.edges.values()
        return found

    # The nondeterministic automaton: places, and arcs between them

    def _place(self, pattern, after):
        """The place at which the pattern begins if it is followed by what begins at ``after``; None: nothing matches.

        It is made from the end to the beginning, so there is a way to the end from each place that is made.
        """
        match pattern:
            case Strings(trie):
                return self._add([(trie, after)]) if trie.final or trie.edges else None
            case Sequence(parts):
                for part in reversed(parts):
                    after = self._place(part, after)
                    if after is None:
                        return None
                return after
            case Either(options):
                places = {self._place(option, after) for option in options} - {None}
                if len(places) < 2:
                    return places.pop() if places else None
                return self._add([(EMPTY, place) for place in sorted(places)])
            case Repeat(item, least, most):
                return self._repeated(item, least, most, after)

    def _repeated(self, item, least, most, after):
        if most is None:
            loop = self._add([(EMPTY, after)])
            body = self._place(item, loop)
            if body is not None:
                self._arcs[loop].append((EMPTY, body))
            after, copies = loop, 0
        else:
            copies = most - least
        end = after
        for _ in range(copies):
            body = self._place(item, after)
            if body in (None, after):  # nothing matches, or nothing but the empty string
                break
            after = self._add([(EMPTY, end), (EMPTY, body)])
        for _ in range(least):
            body = self._place(item, after)
            if body in (None, after):
                return body
            after = body
        return after

    def _add(self, arcs):
        if len(self._arcs) >= MAX_PLACES:
            raise ConfigError(
                f"the pattern is too large: with its repetitions written out it has more than {MAX_PLACES:,} parts.\n"
                "Use smaller numbers in {m,n}, or * and +."
            )
        self._arcs.append(arcs)
        return len(self._arcs) - 1

    def _closure(self, arcs):
        """The arcs, and those that follow without another byte: the state."""
        state, seen, stack = set(), set(), list(arcs)
        while stack:
            trie, after = stack.pop()
            if trie.edges:
                state.add((trie, after))
            if trie.final and after not in seen:
                seen.add(after)
                stack += self._arcs[after]
        return frozenset(state | {AT_END} if END in seen else state)

    # The deterministic automaton: numbered states, and a table of the next number for each byte

    def _make_room(self):
        """Forget the states if there are too many. Those that are made from now on may have MAX_ARCS arcs."""
        if len(self._states) > MAX_STATES or self._held > MAX_ARCS:
            self._forget()
        self._most = self._held + MAX_ARCS

    def _forget(self):
        self._states, self._numbers = [DEAD], {DEAD: 0}
        self._held = 0  # arcs of all states
        self._table, self._expanded = np.zeros((64, 256), np.int32), np.zeros(64, bool)
        self._expanded[0] = True

    def _number(self, state):
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
            self._held += len(state)
            if self._held > self._most:
                raise ConfigError(TOO_MANY_ARCS)
            if number == len(self._table):
                self._table = np.concatenate([self._table, np.zeros_like(self._table)])
                self._expanded = np.concatenate([self._expanded, np.zeros_like(self._expanded)])
        return number

    def _expand_all(self, numbers):
        needed = np.zeros(len(self._expanded), bool)
        needed[numbers] = True
        for number in np.flatnonzero(needed & ~self._expanded).tolist():
            self._expand(number)

    def _expand(self, number):
        """Fill in a state's row of the table."""
        if self._expanded[number]:
            return
        places = {}  # of each trie: a class that is repeated has hundreds
        for trie, after in self._states[number]:
            places.setdefault(trie, []).append(after)
        moves = {}  # what is behind each byte: the rest of a trie, and the trie
        for trie in places:
            for byte, rest in trie.edges.items():
                moves.setdefault(byte, []).append((rest, trie))
        known = {}  # most bytes lead to the same state as others
        for byte, found in moves.items():
            key = tuple(found)
            if key not in known:
                arcs = [(rest, after) for rest, trie in found for after in places[trie]]
                known[key] = self._number(self._closure(arcs))
            self._table[number, byte] = known[key]
        self._expanded[number] = True
