"""The flags of all commands: how they are declared, and how their values are read. It imports nothing heavy."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from typing import Any, NoReturn

from npgpt.errors import UserError


@dataclass(frozen=True)
class FlagType:
    """How a flag's value is read, and ``metavar``, its name in the help. ``read`` raises ArgumentTypeError."""

    metavar: str
    read: Callable[[str], Any]

    def __call__(self, text: str) -> Any:
        return self.read(text)


def flag(
    default: Any,
    type: Callable[[str], Any],
    help: str,
    group: str,
    *,
    metavar: str = "",
    aliases: tuple[str, ...] = (),
    repeatable: bool = False,
) -> Any:
    """A field of a dataclass of settings that is a flag as well: ``batch_size`` becomes ``--batch-size``.

    A ``repeatable`` one can be given several times; the field is then a list, in the order in which they were typed.
    """
    metadata = {"type": type, "help": help, "group": group, "metavar": metavar, "aliases": aliases}
    return field(default=default, metadata={**metadata, "repeatable": repeatable})


class Parser(argparse.ArgumentParser):
    """argparse with errors of two lines and, for every --kebab-case flag, its --underscore_spelling."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"python -m npgpt.{command}", description=description, allow_abbrev=False)
        self.groups = {}
        self.spellings = set()  # of the flags in the groups

    def add_flags(self, settings: Any) -> None:
        """A flag for every field of a dataclass that was made with ``flag``. Only what is typed is in the result."""
        for f in fields(settings):
            if "type" not in f.metadata:
                continue
            type, group = f.metadata["type"], f.metadata["group"]
            where = self.groups.get(group) or self.groups.setdefault(group, self.add_argument_group(group))
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
            if type is not bool:
                how = {"type": type, "metavar": f.metadata["metavar"] or getattr(type, "metavar", "X")}
                how["action"] = "append" if f.metadata["repeatable"] else "store"
            shown = "" if f.default is None or f.default == () else f" (default: {f.default})"
            action = where.add_argument(
                *map(as_flag, (f.name, *f.metadata["aliases"])),
                dest=f.name, default=argparse.SUPPRESS, help=f.metadata["help"] + shown, **how,
            )  # fmt: skip
            self.spellings.update(action.option_strings)

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return super().parse_args([*map(self._kebab, arguments[:end]), *arguments[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists the flags.\n")

    def _kebab(self, argument: str) -> str:
        """--batch_size=12 -> --batch-size=12; what is not a flag (a prompt, say) stays as it is."""
        name, equals, value = argument.partition("=")
        kebab = name.replace("_", "-")
        return kebab + equals + value if name.startswith("--") and kebab in self.spellings else argument


def as_flag(name: str) -> str:
    """A setting as it is typed: batch_size -> --batch-size"""
    return "--" + name.replace("_", "-")


def number(
    name: str, low: float, high: float = inf, whole: bool = False, open_low: bool = False, open_high: bool = False
) -> FlagType:
    """A number within bounds; its error says which.

    >>> number("X", 0, 1, open_high=True)("0.5")
    0.5
    """
    bounds = f"{'above' if open_low else 'of at least'} {low:,}"
    if high != inf:
        bounds += f" and {'below' if open_high else 'at most'} {high:,}"
    if high != inf and not open_low and not open_high:
        bounds = f"from {low:,} to {high:,}"
    wanted = f"must be a {'whole ' if whole else ''}number {bounds}"

    def parse(text):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{wanted}, not {shown!r}") from None
        inside = value > low if open_low else value >= low
        inside = inside and (value < high if open_high else value <= high)
        if not (inside and isfinite(value)):
            raise argparse.ArgumentTypeError(f"{wanted}, not {shown}")
        return value

    return FlagType(name, parse)


def count(low: int = 1) -> FlagType:
    """A whole number of at least ``low``."""
    return number("N", low, 2**31 - 1, whole=True)


_PART = r"(?:(\d{1,9}(?:\.\d{1,9})?)%s)?"
_DURATION = re.compile(_PART % "h" + _PART % "m" + _PART % "s")


def _seconds(text):
    if text and (match := _DURATION.fullmatch(text)):
        return sum(float(part or 0) * seconds for part, seconds in zip(match.groups(), (3600, 60, 1), strict=True))
    try:
        return number("X", 0)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a time such as 90s, 10m or 1h30m") from None


duration = FlagType("TIME", _seconds)  # in seconds, 5400.0 for 1h30m; a number alone is seconds


def choice(*names: str) -> FlagType:
    """One of some words."""

    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    return FlagType("|".join(names), parse)


def checked_text(metavar: str, check: Callable[[str], Any]) -> FlagType:
    """A text, as it was typed, on which ``check`` raises no UserError."""

    def parse(text):
        try:
            check(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return FlagType(metavar, parse)


def _name(text):
    if not text:  # would mean the working folder, which nobody wants
        raise argparse.ArgumentTypeError("the name is empty")
    try:
        text.encode()
    except UnicodeEncodeError:  # what Linux allows, and JSON doesn't
        is_utf_8 = sys.getfilesystemencoding() == "utf-8"
        problem = "is not UTF-8: give it another one" if is_utf_8 else "can't be read in this locale: set PYTHONUTF8=1"
        raise argparse.ArgumentTypeError(f"the name {text!r} {problem}") from None
    return text


pathname = FlagType("PATH", _name)
