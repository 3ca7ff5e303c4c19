"""Conversations in JSON Lines, a conversation a line, as text that a model can learn.

    {"user": "Hello", "assistant": "Good day."}
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}, ...]}

Both become

    Human: Hello
    Assistant: Good day.
    (an empty line)

Messages may begin with one of the role "system", which becomes "System: ...". Then users' and assistant's follow in
turns, and the assistant has the last word. What the assistant says is from the space after its name to the empty line.
Other fields of a line don't get into the text; they are counted, so that a user hears of them.

Files come from strangers: JSON is read strictly, lines have a largest length, and texts have no control characters and
no halves of surrogate pairs. All bad lines are found, and an error lists the first of them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.errors import CheckpointError, DataError
from npgpt.text.tokenizer import Tokenizer, describe

MAX_LINE_BYTES = 2**22
MAX_SHOWN = 10  # bad lines that are listed

_NAMES = {"system": "System", "user": "Human", "assistant": "Assistant"}
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not tab, newline, carriage return


def is_conversations(path: Path) -> bool:
    """Whether a file is one of conversations, by its name."""
    return path.suffix.lower() == ".jsonl"


@dataclass(frozen=True)
class Conversation:
    """A conversation's text, in parts: (text, whether the assistant says it). Joined, they are all of it."""

    parts: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(part for part, _ in self.parts)

    def encode(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """-> the ids (N,) of the whole text, and for each whether it is the assistant's. Raises TokenizerError.

        No token crosses a border between parts: a space comes after "Assistant:", and "Human" after a newline.
        """
        ids = tokenizer.encode(self.text)
        ends = np.cumsum([len(tokenizer.token_bytes(id)) for id in ids.tolist()])
        borders = np.cumsum([len(part.encode()) for part, _ in self.parts])
        said = np.array([said for _, said in self.parts])
        return ids, said[np.searchsorted(borders, ends)]


class ConversationFile:
    """The conversations of one file. ``unused`` counts the fields that don't get into the text, once they are read."""

    def __init__(self, path: Path):
        self.path = path
        self.unused: Counter[str] = Counter()

    def read(self, bar: tqdm) -> Iterator[Conversation]:
        """Yield them up to the first bad line; then read on, and raise a DataError that lists all bad lines.

        Raises DataError too if the file can't be read, or no line has a conversation.
        """
        bad: list[str] = []
        lines = bad_count = 0
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(_lines(file), 1):
                    bar.update(len(line))
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if not line.strip():
                        continue
                    lines += 1
                    try:
                        conversation = self._parse(line)
                    except ValueError as error:
                        bad_count += 1
                        if bad_count <= MAX_SHOWN:
                            bad.append(f"line {number:,}: {error}")
                    else:
                        if not bad:
                            yield conversation
        except OSError as error:
            raise DataError(f"can't read {self.path}: {error.strerror}") from error
        if bad:
            more = f"\nand {bad_count - MAX_SHOWN:,} more" if bad_count > MAX_SHOWN else ""
            problem = f"{bad_count:,} of {lines:,} lines can't be read as conversations:"
            raise DataError(f"{self.path}: {problem}\n" + "\n".join(bad) + more)
        if not lines:
            raise DataError(f"{self.path} is empty: there are no conversations in it")

    def _parse(self, line: bytes) -> Conversation:
        """Raises ValueError, which says what is wrong."""
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
        try:
            values = parse_json(line, "line")
        except CheckpointError as error:
            raise ValueError(str(error).removeprefix("line: ")) from None
        if not isinstance(values, dict):
            raise ValueError(f"a JSON object was expected, not {_type(values)}")
        if "messages" in values:
            known, messages = {"messages"}, values["messages"]
            if not isinstance(messages, list):
                raise ValueError(f"messages must be a list, not {_type(messages)}")
            turns = [self._message(i, message) for i, message in enumerate(messages, 1)]
        else:
            known = {"user", "assistant"}
            turns = [(name, _text(values, name, name)) for name in ("user", "assistant")]
        if both := {"user", "assistant"} & values.keys() - known:
            raise ValueError(f"messages and {min(both)!r} are both there: which is the conversation?")
        _check_order([role for role, _ in turns])
        self.unused.update(values.keys() - known)
        parts: list[tuple[str, bool]] = []
        for role, content in turns:
            parts.append((f"{_NAMES[role]}:" if role == "assistant" else f"{_NAMES[role]}: {content}\n", False))
            if role == "assistant":
                parts.append((f" {content}\n\n", True))
        return Conversation(tuple(parts))

    def _message(self, number, message):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} must be a JSON object, not {_type(message)}")
        role = _text(message, "role", f"message {number}: role")
        if role not in _NAMES:
            raise ValueError(f"message {number}: role {role[:40]!r} is none of {', '.join(_NAMES)}")
        self.unused.update(f"messages.{key}" for key in message.keys() - {"role", "content"})
        return role, _text(message, "content", f"message {number}: content")


def _lines(file) -> Iterator[bytes]:
    """Lines of at most MAX_LINE_BYTES + 1 bytes; what is longer is cut off, so that memory is bounded."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            pass
        yield line


def _text(values, key, place):
    if key not in values:
        raise ValueError(f"the field {key!r} is missing" if place == key else f"{place} is missing")
    value = values[key]
    if not isinstance(value, str):
        raise ValueError(f"{place} must be a string, not {_type(value)}")
    if found := _CONTROL.search(value):
        kind = "half of a surrogate pair" if found[0] >= "\ud800" else "a control character"
        raise ValueError(f"{place} has {kind}, {describe(found[0])}, at offset {found.start():,}")
    if not value.strip():
        raise ValueError(f"{place} has no text")
    return value


def _check_order(roles):
    turns = roles[1:] if roles[:1] == ["system"] else roles
    for i, role in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if role != expected:
            number = i + 1 + len(roles) - len(turns)
            raise ValueError(f"message {number} is of the role {role!r}, where one of {expected!r} was expected")
    if len(turns) < 2 or len(turns) % 2:
        raise ValueError("the last message must be of the role 'assistant'")


def _type(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
