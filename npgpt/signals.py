"""Ctrl-C and SIGTERM, for commands that have something to finish. Nothing heavy is imported."""

import signal
import sys


class StopRequest:
    """Within ``with StopRequest(...) as stop:`` Ctrl-C and SIGTERM set ``stop.requested``.

    notice      printed at the first signal; the second raises KeyboardInterrupt. Without a notice the first one does

    An exception raised inside a callback from LLVM is lost, so a loop should check ``requested`` as well.
    """

    def __init__(self, notice: str | None = None):
        self.notice = notice
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._before = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        again, self.requested = self.requested, True
        if again or self.notice is None:
            raise KeyboardInterrupt
        print(self.notice, file=sys.stderr, flush=True)
