"""python -m npgpt.chat in a terminal: Ctrl-C, Ctrl-D and signals, at the prompt and within an answer."""

import os
import select
import signal
import sys
import time

import pytest
from helpers.chat_runs import make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("chat")
    make_run(work / "runs" / "a")
    return work


@pytest.fixture
def in_terminal(made):
    """-> a function that starts a command in a terminal. What is left of it at the end of the test is killed."""
    started = []

    def start(*typed):
        started.append(PseudoTerminal(*typed, cwd=made))
        return started[-1]

    yield start
    for terminal in started:
        terminal.end()


class PseudoTerminal:
    """A command in a terminal of 80 columns.

    Python's input() misses a signal that comes after the prompt is shown and before it waits for keys: it acts on it
    when the next one comes. So Ctrl-C and signals are sent here until something happens, and with long pauses: a second
    one that comes while the first is being obeyed would be one too many.
    """

    def __init__(self, *typed, cwd):
        pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, [sys.executable, *typed])
        self.seen = ""

    def wait_for(self, text):
        """Read until the text has come -> what came with it and since the last time."""
        deadline = time.monotonic() + 300
        while text not in self.seen:
            assert self.has_output(seconds=60), f"{text!r} never came: {self.seen!r}"
            assert time.monotonic() < deadline, f"{text!r} never came: {self.seen[-1000:]!r}"
            try:
                self.seen += os.read(self.descriptor, 4096).decode(errors="replace").replace("\r\n", "\n")
            except OSError:  # the terminal is closed
                raise AssertionError(f"{text!r} never came: {self.seen!r}") from None
        end = self.seen.index(text) + len(text)
        came, self.seen = self.seen[:end], self.seen[end:]
        return came

    def has_output(self, seconds):
        """Wait for output, at most so long."""
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def interrupt(self):
        """Ctrl-C at the prompt."""
        for _ in range(10):
            self.type("\x03")
            if self.has_output(seconds=10):
                return
        raise AssertionError("Ctrl-C does nothing")

    def end_by(self, number):
        """Send a signal -> the exit code."""
        for _ in range(10):
            os.kill(self.pid, number)
            if (code := self.exit_code(seconds=10)) is not None:
                return code
        raise AssertionError(f"signal {number} does nothing")

    def exit_code(self, seconds=60):
        """Wait for the end, at most so long -> the exit code; None: it goes on."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.pid = None
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None

    def close(self):
        """As a terminal's window is closed."""
        os.close(self.descriptor)
        self.descriptor = None

    def end(self):
        """Leave nothing of it behind."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.descriptor is not None:
            self.close()


ENDLESS = """
import itertools, time
import npgpt.generation.dialogue as dialogue
from npgpt import chat, process
from npgpt.generation import Token

def stream(*arguments, stop_if, **options):
    for id in itertools.cycle(b" so on"):
        stop_if(Token(0, id))
        yield Token(0, id)
        time.sleep(0.01)

dialogue.stream = stream
process.run(chat.main)
"""


def test_ctrl_c_in_a_terminal_stops_the_answer_and_not_the_program(in_terminal):
    terminal = in_terminal("-c", ENDLESS, "--model", "runs/a")
    assert "it sees 96 tokens at once" in terminal.wait_for("Human: ")
    terminal.interrupt()
    assert "Ctrl-D or /quit leaves" in terminal.wait_for("Human: ")
    terminal.type("/nothing\n")
    assert "there is no command '/nothing'" in terminal.wait_for("Human: ")
    for _ in range(2):
        terminal.type("Hi\n")
        terminal.wait_for("Assistant: so on so on")
        terminal.type("\x03")
        terminal.wait_for("(stopped)\nHuman: ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(in_terminal, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("nohup: the tests were started so that a hang-up is ignored")
    termios = pytest.importorskip("termios", reason="Windows has no pseudo-terminals")
    terminal = in_terminal("-m", "npgpt.chat", "--model", "runs/a")

    def flags():
        return termios.tcgetattr(terminal.descriptor)[3]

    before = flags()
    terminal.wait_for("Human: ")
    for _ in range(1000):  # until readline has changed the terminal
        if not flags() & termios.ICANON:
            break
        time.sleep(0.01)
    assert terminal.end_by(number) == 128 + number
    assert flags() == before


def test_a_terminal_that_is_closed_during_an_answer_ends_the_program_as_its_signal_does(in_terminal):
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("nohup: the tests were started so that a hang-up is ignored")
    terminal = in_terminal("-c", ENDLESS, "--model", "runs/a")
    terminal.wait_for("Human: ")
    terminal.type("Hi\n")
    terminal.wait_for("Assistant: so on so on")
    terminal.close()
    assert terminal.exit_code() == 129
