"""What all commands share: flags, errors of one to three lines, the number of threads. It imports nothing heavy."""

import argparse
import errno
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from threading import Timer, current_thread, main_thread
from typing import Any, NoReturn

from npgpt.errors import CheckpointWarning, ConfigError, UserError
from npgpt.signals import Stopped, exit_code
from npgpt.streams import standard_streams

_LAYERS = "default", "safe", "threadsafe", "forksafe", "tbb", "omp", "workqueue"  # Numba's words


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
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{wanted}, not {text!r}") from None
        inside = value > low if open_low else value >= low
        inside = inside and (value < high if open_high else value <= high)
        if not (inside and isfinite(value)):
            raise argparse.ArgumentTypeError(f"{wanted}, not {text}")
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


def _name(text):
    if not text:  # would mean the working folder, which nobody wants
        raise argparse.ArgumentTypeError("the name is empty")
    try:
        text.encode()
    except UnicodeEncodeError:  # what Linux allows, and JSON doesn't
        raise argparse.ArgumentTypeError(f"the name {text!r} is not UTF-8: give it another one") from None
    return text


pathname = FlagType("PATH", _name)


def use_threads(threads: int | None) -> None:
    """Set how many threads compute. NumPy and Numba read this when they are imported, so it comes before them."""
    if threads is not None:
        if "numba" in sys.modules:
            raise ConfigError("the number of threads can't be changed any more: kernels are loaded already")
        for variable in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)


def _check_threads():
    """Numba's import shows a traceback of its own on what is no number, and fails on a number below 1.

    A threading layer that it doesn't know is a traceback at the first kernel.
    """
    layer = os.environ.get("NUMBA_THREADING_LAYER", "default")
    if layer not in _LAYERS:
        raise ConfigError(f"NUMBA_THREADING_LAYER must be one of {', '.join(_LAYERS)}, not {layer[:20]!r}")
    text = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not re.fullmatch(r"\s*\+?0*[1-9]\d*\s*", text):
        raise ConfigError(f"NUMBA_NUM_THREADS must be at least 1, not {text[:20]!r}")


def run(main: Callable[[], int]) -> None:
    """Run a command's ``main`` and leave the process: 0, or 2 with a message when the user made a mistake.

    What the machine refuses (a full disk, no more memory) gets a message too. With the environment variable
    NPGPT_TRACEBACK=1 the traceback stands before each message. A signal's exit code is 128 and its number.
    """
    with standard_streams(), warnings.catch_warnings(), _lost_interrupts_sent_again(), _interrupts_noted() as noted:
        warnings.showwarning = _show_warning
        sys.exit(_exit_code(main, noted))


def _show_warning(message, category, filename, line_number, file=None, line=None):
    """Ours in a line of our form, others as Python shows them."""
    if issubclass(category, CheckpointWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, line_number, line))


@contextmanager
def _lost_interrupts_sent_again():
    """An interrupt that arrives in a callback or a destructor is printed and lost there: send its signal once more."""

    def hook(unraisable):
        if not isinstance(error := unraisable.exc_value, KeyboardInterrupt):
            return before(unraisable)
        again = Timer(0.05, _send_to_this_process, (_code_of(error) - exit_code(0),))
        again.daemon = True  # a process that ends before doesn't wait for it
        again.start()

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _interrupts_noted():
    """-> a list to which each Ctrl-C adds its signal. An import in C may drop the exception: Numba's does."""

    def note(number, frame):
        noted.append(number)
        signal.default_int_handler(number, frame)

    noted: list[int] = []
    usual = current_thread() is main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _send_to_this_process(number):
    """As a terminal sends a signal: it wakes the main thread, whatever that waits for."""
    if sys.platform == "win32":  # where os.kill ends the process at once
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)


def _code_of(interrupt):
    return interrupt.exit_code if isinstance(interrupt, Stopped) else exit_code(signal.SIGINT)


def _interrupt_behind(error):
    """The interrupt that an import has turned into an ImportError, as NumPy's does; None if there is none."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _exit_code(main, noted) -> int:
    try:
        _check_threads()
        code = main()
        sys.stdout.flush()
    except (KeyboardInterrupt, UserError, OSError, MemoryError) as error:
        if _nobody_reads(error):  # whoever read our output (head, say) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        code = explain(error)
    except ImportError as error:
        interrupt = _interrupt_behind(error)
        if interrupt is None and not noted:
            raise
        code = explain(interrupt or KeyboardInterrupt())
    return code


def _nobody_reads(error):
    """Whether standard output is a pipe that was closed at its other end. Windows says EINVAL then."""
    invalid = sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or (invalid and error.filename is None)


def _message(error):
    """An error in words. A file that was being written is named as it was to be called in the end."""
    if isinstance(error, MemoryError):
        return f"not enough memory. {error}"
    if isinstance(error, OSError) and error.strerror:
        if not isinstance(error.filename, str | os.PathLike):
            return error.strerror
        name = re.sub(r"(^|/)\.([^/]+)\.[0-9a-f]{8}\.npgpt-tmp$", r"\1\2", os.fspath(error.filename))
        return f"{name}: {error.strerror}"
    return str(error)


def explain(error: BaseException) -> int:
    """Print why a command ends early, and return its exit code: a signal's, 2, or 1 for a mistake in npgpt."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return _code_of(error)
    expected = isinstance(error, UserError | OSError | MemoryError)
    if not expected or os.environ.get("NPGPT_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    if expected:
        print(f"error: {_message(error)}", file=sys.stderr)
    return 2 if expected else 1
