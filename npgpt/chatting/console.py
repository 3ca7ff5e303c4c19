"""Where a conversation is typed and shown: a terminal, or a pipe or file, in which each line is a message."""

import signal
import sys
from contextlib import suppress
from typing import Protocol

from npgpt.errors import DataError
from npgpt.signals import Stopped, StopRequest, exit_code
from npgpt.text.conversation import NAMES

LINE_LIMIT = 2**20  # bytes of a message; a model sees a few thousand at once
LEAVE = "Ctrl-D or /quit leaves, /help shows the commands."


class Console(Protocol):
    """What messages come from and answers go to."""

    interactive: bool  # whether somebody sits there, who can try again

    @property
    def place(self) -> str:
        """Where a mistake is, to be said before what it is: "line 3: "."""

    def read(self) -> str | None:
        """The next line without its end; None: there is none. Raises DataError if it can't be read."""

    def begin(self) -> None:
        """Before an answer."""

    def end(self) -> None:
        """After an answer."""


class Terminal:
    """A person at a terminal. Lines can be edited and called back, where Python has readline."""

    interactive = True
    place = ""

    def __init__(self) -> None:
        self._has_readline = False
        if sys.stdout.isatty():
            with suppress(ImportError):
                import readline  # noqa: F401  input() edits lines once it is imported

                self._has_readline = True

    def read(self) -> str | None:
        prompt = f"{NAMES['user']}: "
        while True:
            try:
                with StopRequest():  # readline changes the terminal, and puts it back only if an exception ends it
                    if self._has_readline:
                        return input(prompt)
                    print(prompt, end="", file=sys.stderr, flush=True)  # stdout may be a file
                    return input()
            except EOFError:
                print(file=sys.stderr)
                return None
            except KeyboardInterrupt as stop:
                if isinstance(stop, Stopped) and stop.exit_code != exit_code(signal.SIGINT):
                    raise
                print(f"\n{LEAVE}", file=sys.stderr)
            except UnicodeDecodeError:
                raise DataError("the line is not UTF-8 text") from None

    def begin(self) -> None:
        print(f"{NAMES['assistant']}: ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        print("\n", flush=True)


class Pipe:
    """A file or another program, a message a line. Only answers are written, and a mistake ends the command."""

    interactive = False

    def __init__(self) -> None:
        self._lines = 0

    @property
    def place(self) -> str:
        return f"line {self._lines}: "

    def read(self) -> str | None:
        data = sys.stdin.buffer.readline(LINE_LIMIT + 1) if sys.stdin else b""
        self._lines += 1
        if len(data) > LINE_LIMIT:
            raise DataError(f"{self.place}longer than {LINE_LIMIT:,} bytes")
        try:
            return data.decode("utf-8-sig" if self._lines == 1 else "utf-8").rstrip("\r\n") if data else None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.place}not UTF-8 text at byte {error.start}") from None

    def begin(self) -> None:
        pass

    def end(self) -> None:
        print(flush=True)


def open_console() -> Console:
    """The terminal if standard input is one."""
    return Terminal() if sys.stdin and sys.stdin.isatty() else Pipe()
