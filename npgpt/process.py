"""A command's process: its threads, its exit code, and errors of one to three lines. It imports nothing heavy."""

import errno
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread

from npgpt.errors import CheckpointWarning, ConfigError, UserError
from npgpt.signals import Stopped, exit_code
from npgpt.streams import standard_streams

MAX_THREADS = 1024
_LAYERS = "default", "safe", "threadsafe", "forksafe", "tbb", "omp", "workqueue"  # Numba's words


def use_threads(threads: int | None) -> None:
    """Set how many threads compute. NumPy and Numba read this when they are imported, so it comes before them."""
    if threads is not None:
        if "numba" in sys.modules:
            raise ConfigError("the number of threads can't be changed any more: kernels are loaded already")
        for variable in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)


def _check_threads():
    """Numba's import shows a traceback of its own on what is no number, and fails on a number below 1.

    A threading layer that it doesn't know is a traceback at the first kernel, and 100,000 threads end the process.
    """
    layer = os.environ.get("NUMBA_THREADING_LAYER", "default")
    if layer not in _LAYERS:
        raise ConfigError(f"NUMBA_THREADING_LAYER must be one of {', '.join(_LAYERS)}, not {layer[:20]!r}")
    text = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not re.fullmatch(r"\s*\+?0*[1-9]\d{,3}\s*", text) or int(text) > MAX_THREADS:
        raise ConfigError(f"NUMBA_NUM_THREADS must be from 1 to {MAX_THREADS:,}, not {text[:20]!r}")


def run(main: Callable[[], int]) -> None:
    """Run a command's ``main`` and leave the process: 0, or 2 with a message when the user made a mistake.

    What the machine refuses (a full disk, no more memory) gets a message too. With the environment variable
    NPGPT_TRACEBACK=1 the traceback stands before each message. A signal's exit code is 128 and its number.
    """
    with standard_streams(), warnings.catch_warnings(), _interrupts_noted() as noted:
        warnings.showwarning = _show_warning
        with _interrupts_in_destructors(noted):
            sys.exit(_exit_code(main, noted))


def _show_warning(message, category, filename, line_number, file=None, line=None):
    """Ours in a line of our form, others as Python shows them."""
    if issubclass(category, CheckpointWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, line_number, line))


@contextmanager
def _interrupts_in_destructors(noted):
    """An interrupt that arrives in a callback or a destructor is printed and lost there: send its signal once more.

    One that arrives in a constructor, llvmlite's say, leaves an object half made. Its destructor then complains of a
    missing attribute, which is not shown.
    """

    def hook(unraisable):
        if noted and isinstance(unraisable.exc_value, AttributeError):
            return
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
    """-> a list to which each interrupt adds its signal. An import in C may drop the exception: Numba's does."""

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
            _drop_output()
            return 0
        if isinstance(error, KeyboardInterrupt):
            noted.append(_code_of(error) - exit_code(0))
        code = explain(error)
        try:
            sys.stdout.flush()
        except OSError:  # a closed terminal, a full disk; Python would try once more, and end with 120
            _drop_output()
    except ImportError as error:
        interrupt = _interrupt_behind(error)
        if interrupt is None and not noted:
            raise
        code = explain(interrupt or KeyboardInterrupt())
    return code


def _drop_output():
    """Discard what is still buffered for standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nobody_reads(error):
    """Whether standard output is a pipe that was closed at its other end. Windows says EINVAL then."""
    invalid = sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or (invalid and error.filename is None)


def _message(error):
    """An error in words. A file that was being written is named as it was to be called in the end."""
    if isinstance(error, MemoryError):
        return f"not enough memory. {error}".rstrip()
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
