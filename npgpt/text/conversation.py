"""A conversation as text that a model can learn, and that a chat continues. The messages of one

    [("system", "Be brief."), ("user", "Hello"), ("assistant", "Good day.")]

become

    System: Be brief.
    Human: Hello
    Assistant: Good day.
    (an empty line)

A conversation may begin with a message of the role "system". Then users' and assistant's follow in turns. What the
assistant says is from the space after its name to the empty line. A message has some text, and neither control
characters nor halves of surrogate pairs.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from npgpt.text.tokenizer import Tokenizer, describe

NAMES = {"system": "System", "user": "Human", "assistant": "Assistant"}  # {role: its name in the text}

Message = tuple[str, str]  # role, content

_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not tab, newline, carriage return


def message_text(role: str, content: str) -> str:
    """A message as text, with its name and what ends it.

    >>> message_text("user", "Hello") + message_text("assistant", "Good day.")
    'Human: Hello\\nAssistant: Good day.\\n\\n'
    """
    return f"{NAMES[role]}: {content}\n" + ("\n" if role == "assistant" else "")


@dataclass(frozen=True)
class Conversation:
    """A conversation's text, in parts: (text, whether the assistant says it). Joined, they are all of it."""

    parts: tuple[tuple[str, bool], ...]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Conversation":
        """Make the text of messages. They are not checked.

        >>> Conversation.of([("user", "Hi"), ("assistant", "Ho")]).parts
        (('Human: Hi\\n', False), ('Assistant:', False), (' Ho\\n\\n', True))
        """
        parts: list[tuple[str, bool]] = []
        for role, content in messages:
            text = message_text(role, content)
            if role == "assistant":
                name = f"{NAMES[role]}:"
                parts += [(name, False), (text.removeprefix(name), True)]
            else:
                parts.append((text, False))
        return cls(tuple(parts))

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


def check_content(content: str, place: str) -> None:
    """Raise ValueError, which begins with ``place``, if this can't be what a message says.

    >>> check_content("a\\0", "message 1")
    Traceback (most recent call last):
    ...
    ValueError: message 1 has a control character, '\\x00' (U+0000), at offset 1
    """
    if found := _CONTROL.search(content):
        kind = "half of a surrogate pair" if found[0] >= "\ud800" else "a control character"
        raise ValueError(f"{place} has {kind}, {describe(found[0])}, at offset {found.start():,}")
    if not content.strip():
        raise ValueError(f"{place} has no text")


def check_order(roles: Sequence[str], last: str = "assistant") -> None:
    """Raise ValueError unless users and assistant take turns and the last message is of the role ``last``.

    A user begins, after a message of the role "system" if there is one.

    >>> check_order(["system", "user", "assistant"])
    >>> check_order(["user", "assistant", "user"], last="user")
    """
    turns = roles[1:] if roles[:1] == ["system"] else roles
    for i, role in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if role != expected:
            number = i + 1 + len(roles) - len(turns)
            raise ValueError(f"message {number} is of the role {role!r}, where one of {expected!r} was expected")
    if not turns or turns[-1] != last:
        raise ValueError(f"the last message must be of the role {last!r}")


def json_line(messages: Sequence[Message]) -> str:
    """The conversation as a line of the JSON Lines that ``npgpt.train`` reads, with its newline.

    >>> json_line([("user", "Hi"), ("assistant", "Ho")])
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\\n'
    """
    listed = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"messages": listed}, ensure_ascii=False) + "\n"
