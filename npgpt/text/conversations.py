"""Conversations in JSON Lines, a conversation a line.

    {"user": "Hello", "assistant": "Good day."}
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}, ...]}

conversation.py says what text they become, and in which order messages may come; the assistant has the last word. Other
fields of a line don't get into the text; they are counted, so that a user hears of them.

Files come from strangers: JSON is read strictly, and lines have a largest length. All bad lines are found, and an error
lists the first of them.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.errors import CheckpointError, DataError
from npgpt.text.conversation import NAMES, Conversation, check_content, check_order

MAX_LINE_BYTES = 2**22
MAX_SHOWN = 10  # bad lines that are listed


def is_conversations(path: Path) -> bool:
    """Whether a file is one of conversations, by its name."""
    return path.suffix.lower() == ".jsonl"


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
        check_order([role for role, _ in turns])
        self.unused.update(values.keys() - known)
        return Conversation.of(turns)

    def _message(self, number, message):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} must be a JSON object, not {_type(message)}")
        role = _text(message, "role", f"message {number}: role")
        if role not in NAMES:
            raise ValueError(f"message {number}: role {role[:40]!r} is none of {', '.join(NAMES)}")
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
    check_content(value, place)
    return value


def _type(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
