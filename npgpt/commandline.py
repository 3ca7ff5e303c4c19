"""What all commands share: flags, errors of one to three lines, the number of threads. It imports nothing heavy."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import field
from math import isfinite
from typing import Any, NoReturn

from npgpt.errors import ConfigError, UserError


def flag(
    default: Any,
    type: Callable,
    help: str,
    group: str = "",
    *,
    metavar: str | None = None,
    aliases: tuple[str, ...] = (),
) -> Any:
    """A field of a dataclass of settings that is a flag as well: ``batch_size`` becomes ``--batch-size``."""
    metadata = {"type": type, "help": help, "group": group, "metavar": metavar, "aliases": aliases}
    return field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """argparse with errors of two lines and, for every --kebab-case flag, its --underscore_spelling."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"python -m npgpt.{command}", description=description, allow_abbrev=False)
        self.groups = {}
        self.spellings = set()  # of the flags in the groups

    def add_flags(self, settings: type) -> None:
        """A flag for every field of a dataclass that was made with ``flag``. Only what is typed is in the result."""
        for name, f in settings.__dataclass_fields__.items():
            if "type" not in f.metadata:
                continue
            type, group = f.metadata["type"], f.metadata["group"]
            where = self.groups.get(group) or self.groups.setdefault(group, self.add_argument_group(group))
            spellings = [f"--{n.replace('_', '-')}" for n in (name, *f.metadata["aliases"])]
            how = {"action": argparse.BooleanOptionalAction} if type is bool else {"type": type}
            shown = "" if f.default is None else f" (default: {f.default})"
            if type is not bool:
                how["metavar"] = f.metadata["metavar"] or getattr(type, "metavar", "X")
            action = where.add_argument(
                *spellings, dest=name, default=argparse.SUPPRESS, help=f.metadata["help"] + shown, **how
            )
            self.spellings.update(action.option_strings)

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return super().parse_args([*map(self._kebab, arguments[:end]), *arguments[end:]])

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists the flags.\n")

    def _kebab(self, argument: str) -> str:
        """--batch_size=12 -> --batch-size=12; what is not a flag (a prompt, say) stays as it is."""
        name, equals, value = argument.partition("=")
        kebab = name.replace("_", "-")
        return kebab + equals + value if name.startswith("--") and kebab in self.spellings else argument


def number(
    name: str,
    low: float,
    high: float = float("inf"),
    whole: bool = False,
    open_low: bool = False,
    open_high: bool = False,
) -> Callable[[str], float]:
    """A flag's type: a number within bounds; its error says which.

    >>> number("X", 0, 1, open_high=True)("0.5")
    0.5
    """
    bounds = f"{'above' if open_low else 'at least'} {low:,}"
    if high != float("inf"):
        bounds += f" and {'below' if open_high else 'at most'} {high:,}"
    wanted = f"a {'whole ' if whole else ''}number, {bounds}"

    def parse(text):
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        inside = value > low if open_low else value >= low
        inside = inside and (value < high if open_high else value <= high)
        if not (inside and isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return value

    parse.metavar = name
    return parse


def pathname(text: str) -> str:
    """A flag's type: the name of a file or folder. An empty one would mean the working folder, which nobody wants."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


pathname.metavar = "PATH"


def choice(*names: str) -> Callable[[str], str]:
    """A flag's type: one of some words."""

    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    parse.metavar = "|".join(names)
    return parse


def count(low: int = 1) -> Callable[[str], int]:
    """A flag's type: a whole number of at least ``low``."""
    return number("N", low, 2**31 - 1, whole=True)


def use_threads(threads: int | None) -> None:
    """Set how many threads compute. NumPy and Numba read this when they are imported, so it comes before them."""
    if threads is not None:
        if "numba" in sys.modules:
            raise ConfigError("the number of threads can't be changed any more: kernels are loaded already")
        for variable in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)


def _check_number_of_threads():
    """Numba's import fails with a traceback of its own on a number below 1; it ignores what is not a number."""
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    if re.fullmatch(r"\s*(-\d+|\+?0+)\s*", text):
        raise ConfigError(f"NUMBA_NUM_THREADS must be at least 1, not {text[:20]!r}")


def run(main: Callable[[], int]) -> None:
    """Run a command's ``main`` and leave the process: 0, or 2 with a message when the user made a mistake.

    What the machine refuses (a full disk, no more memory) gets a message too. With the environment variable
    NPGPT_TRACEBACK=1 the traceback stands before each message.
    """
    sys.stdout.reconfigure(errors="replace")  # rather than fail on a character that the terminal doesn't have
    try:
        _check_number_of_threads()
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # whoever read our output (head, say) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (UserError, OSError, MemoryError) as error:
        if os.environ.get("NPGPT_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {'not enough memory. ' if isinstance(error, MemoryError) else ''}{error}", file=sys.stderr)
        code = 2
    sys.exit(code)
