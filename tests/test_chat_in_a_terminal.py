"""python -m npgpt.chat in a terminal: Ctrl-C, Ctrl-D and signals, at the prompt and within an answer."""

import contextlib
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


class PseudoTerminal:
    """A command in a terminal of 80 columns."""

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
        while text not in self.seen:
            assert self.has_output(seconds=60), f"{text!r} never came: {self.seen!r}"
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
        """Ctrl-C at the prompt. Python misses one that comes after the prompt is shown and before it waits for keys."""
        self.type("\x03")
        while not self.has_output(seconds=2):
            self.type("\x03")

    def exit_code(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


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


def test_ctrl_c_in_a_terminal_stops_the_answer_and_not_the_program(made):
    terminal = PseudoTerminal("-c", ENDLESS, "--model", "runs/a", cwd=made)
    try:
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
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(terminal.pid, signal.SIGKILL)
        os.close(terminal.descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(made, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("nohup: the tests were started so that a hang-up is ignored")
    termios = pytest.importorskip("termios", reason="Windows has no pseudo-terminals")
    terminal = PseudoTerminal("-m", "npgpt.chat", "--model", "runs/a", cwd=made)
    before = termios.tcgetattr(terminal.descriptor)[3]
    terminal.wait_for("Human: ")
    for _ in range(1000):  # until readline waits for keys
        if not termios.tcgetattr(terminal.descriptor)[3] & termios.ICANON:
            break
        time.sleep(0.01)
    os.kill(terminal.pid, number)
    assert terminal.exit_code() == 128 + number
    assert termios.tcgetattr(terminal.descriptor)[3] == before


def test_a_terminal_that_is_closed_during_an_answer_ends_the_program_as_its_signal_does(made):
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("nohup: the tests were started so that a hang-up is ignored")
    terminal = PseudoTerminal("-c", ENDLESS, "--model", "runs/a", cwd=made)
    terminal.wait_for("Human: ")
    terminal.type("Hi\n")
    terminal.wait_for("Assistant: so on so on")
    os.close(terminal.descriptor)
    assert terminal.exit_code() == 129
