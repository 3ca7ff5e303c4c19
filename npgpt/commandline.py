"""What all commands share: flags, errors of one to three lines, the number of threads. It imports nothing heavy."""

import argparse
import os
import re
import sys
from dataclasses import field
from math import isfinite

from npgpt.errors import ConfigError, UserError


def flag(default, kind, help: str, group: str = "", metavar: str | None = None, also: tuple = ()):
    """A field of a dataclass of settings that is a flag as well: ``batch_size`` becomes ``--batch-size``."""
    return field(
        default=default, metadata={"kind": kind, "help": help, "group": group, "metavar": metavar, "also": also}
    )


class Parser(argparse.ArgumentParser):
    """argparse with errors of two lines and, for every --kebab-case flag, its --underscore_spelling."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"python -m npgpt.{command}", description=description, allow_abbrev=False)
        self.groups = {}
        self.spellings = set()  # of the flags in the groups

    def add_flags(self, settings: type) -> None:
        """A flag for every field of a dataclass that was made with ``flag``. Only what is typed is in the result."""
        for name, f in settings.__dataclass_fields__.items():
            if "kind" not in f.metadata:
                continue
            kind, group = f.metadata["kind"], f.metadata["group"]
            where = self.groups.get(group) or self.groups.setdefault(group, self.add_argument_group(group))
            spellings = [f"--{n.replace('_', '-')}" for n in (name, *f.metadata["also"])]
            how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
            shown = "" if f.default is None else f" (default: {f.default})"
            if kind is not bool:
                how["metavar"] = f.metadata["metavar"] or getattr(kind, "metavar", "X")
            action = where.add_argument(
                *spellings, dest=name, default=argparse.SUPPRESS, help=f.metadata["help"] + shown, **how
            )
            self.spellings.update(action.option_strings)

    def parse_args(self, arguments=None):
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return super().parse_args([*map(self._kebab, arguments[:end]), *arguments[end:]])

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists the flags.\n")

    def _kebab(self, argument: str) -> str:
        """--batch_size=12 -> --batch-size=12; what is not a flag (a prompt, say) stays as it is."""
        name, equals, value = argument.partition("=")
        kebab = name.replace("_", "-")
        return kebab + equals + value if name.startswith("--") and kebab in self.spellings else argument


def number(name: str, low: float, high: float = float("inf"), whole: bool = False, open_low=False, open_high=False):
    """A kind of flag: a number within bounds; its error says which."""
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


def pathname(text):
    """A kind of flag: the name of a file or folder. Empty, it would be the working folder, which nobody means by it."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


pathname.metavar = "PATH"


def choice(*names: str):
    """A kind of flag: one of some words."""

    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    parse.metavar = "|".join(names)
    return parse


def count(low: int = 1):
    return number("N", low, 2**31 - 1, whole=True)


def use_threads(threads: int | None) -> None:
    """Set how many threads compute. NumPy and Numba read this when they are imported, so it comes before them."""
    if threads is not None:
        if "numba" in sys.modules:
            raise ConfigError("the number of threads can't be changed any more: kernels are loaded already")
        for variable in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)


def _check_number_of_threads():
    """Importing Numba fails with its own traceback on a number below 1; what is no number it leaves aside."""
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    if re.fullmatch(r"\s*(-\d+|\+?0+)\s*", text):
        raise ConfigError(f"NUMBA_NUM_THREADS must be at least 1, not {text[:20]!r}")


def run(main) -> None:
    """Run a command's ``main`` and leave the process: 0, or 2 with a message when the user made a mistake.

    What the machine refuses (a full disk, no more memory) gets a message too: a traceback would explain nothing.
    """
    sys.stdout.reconfigure(errors="replace")  # rather than fail on a character that the terminal doesn't have
    try:
        _check_number_of_threads()
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # whoever read our output (head, say) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except MemoryError as error:
        print(f"error: not enough memory. {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
