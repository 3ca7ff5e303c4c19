"""Ctrl-C, SIGTERM and SIGHUP, for commands that have something to finish. Nothing heavy is imported."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

# SIGHUP, which a terminal sends when it is closed, is unknown to Windows.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """Raised in place of KeyboardInterrupt; ``exit_code`` says which signal it was."""

    def __init__(self, number: int):
        self.exit_code = exit_code(number)


def exit_code(number: int) -> int:
    """What a shell reports of a process that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + number


class StopRequest:
    """Within ``with StopRequest(...) as stop:`` Ctrl-C, SIGTERM and SIGHUP set ``stop.requested``.

    notice      printed at the first signal; the second raises Stopped. Without a notice the first signal raises it
    say         prints the notice in place of print(), for example above a progress bar
    number      of the signal that came first; None before

    A signal that is ignored stays so: nohup means it. An exception raised inside a callback from LLVM is lost, so a
    loop should look at ``requested``, or call ``check``, as well.
    """

    def __init__(self, notice: str | None = None, say: Callable[[str], None] | None = None):
        self.notice, self.say = notice, say or _say
        self.number: int | None = None

    @property
    def requested(self) -> bool:
        return self.number is not None

    def check(self) -> None:
        """Raise Stopped if a signal has come, whose own exception was lost."""
        if self.number is not None:
            raise Stopped(self.number)

    def __enter__(self) -> "StopRequest":
        is_main = threading.current_thread() is threading.main_thread()  # signals come to no other
        heard = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN] if is_main else []
        self._before = {s: signal.signal(s, self._request) for s in heard}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        again = self.requested
        if not again:
            self.number = number
        if again or self.notice is None:
            raise Stopped(number)
        try:
            self.say(self.notice)
        except RuntimeError:  # the signal came while Python's stream was being written to: write past it
            with suppress(OSError):
                os.write(2, f"{self.notice}\n".encode())


def _say(line):
    print(line, file=sys.stderr, flush=True)
