"""The flags of ``python -m npgpt.chat``, most of which can be changed while it runs. Nothing heavy is imported."""

from argparse import ArgumentTypeError
from dataclasses import Field, dataclass, fields, replace
from typing import Any

from npgpt.commandline import count, flag
from npgpt.errors import ConfigError
from npgpt.generation_settings import CHOICE, ChoiceSettings, ModelSettings, some_text

TALK = "conversation"


@dataclass(frozen=True)
class TalkSettings:
    """What is said."""

    system: str | None = flag(None, some_text, "what the model reads first, as the system's message", TALK)
    max_new_tokens: int = flag(200, count(), "tokens of an answer, at most", TALK)


@dataclass(frozen=True)
class ChatSettings(ChoiceSettings, TalkSettings, ModelSettings):
    """What ``python -m npgpt.chat`` can be told."""


def changed(settings: ChatSettings, name: str, text: str) -> ChatSettings:
    """Settings of which one is as it was typed. Raises ConfigError, which names it.

    >>> changed(ChatSettings(), "top-p", "0.9").top_p
    0.9
    """
    found = changeable().get(name.replace("_", "-"))
    if found is None:
        raise ConfigError(f"there is no setting {name!r}: /set shows them")
    try:
        value = None if text == "none" and found.default is None else found.metadata["type"](text)
    except ArgumentTypeError as error:
        raise ConfigError(f"{name}: {error}") from None
    new: dict[str, Any] = {found.name: value}
    if found.name == "temperature":  # says what --greedy says, and more
        new["greedy"] = False
    return replace(settings, **new)


def changeable() -> dict[str, Field]:
    """{name: field} of the settings that can be changed: numbers that say how answers are made."""
    return {
        f.name.replace("_", "-"): f
        for f in fields(ChatSettings)
        if (f.metadata["group"] == CHOICE or f.name == "max_new_tokens")
        and f.metadata["type"] is not bool
        and not f.metadata["repeatable"]
    }
