"""Commands whose output nobody reads any more, or that were started without it."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from helpers.commands import QUICK

from npgpt.checkpoints import runs
from npgpt.signals import Stopped, StopRequest
from npgpt.streams import Messages, standard_streams, without_control


class Gone(io.StringIO):
    """A stream whose reader has gone after its first line."""

    def write(self, text):
        if self.getvalue().endswith("\n"):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(text)

    def flush(self):
        if self.getvalue().endswith("\n"):
            raise OSError(errno.EIO, "Input/output error")


def test_messages_that_nobody_reads_are_dropped():
    stream = Gone()
    messages = Messages(stream)
    print("one", file=messages, flush=True)
    print("two", file=messages, flush=True)
    assert stream.getvalue() == "one\n"
    assert not messages.isatty()


def test_streams_that_are_missing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with standard_streams():
        with pytest.raises(OSError, match="Bad file descriptor: 'standard output'"):
            print("nowhere")
        sys.stdout.flush()
        print("nowhere", file=sys.stderr, flush=True)
    assert sys.stdout is None
    assert sys.stderr is None


def shell(line, folder):
    python = f"'{sys.executable}' -m"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('python -m', python)}"],
        cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "NPGPT_KERNELS": "numpy"},
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_commands_with_closed_streams(folder):
    typed = " ".join(map(str, ("text.txt", *QUICK)))
    ended = shell(f"python -m npgpt.train {typed} --log-every 1 2>&1 | head -1", folder)
    assert (ended.returncode, ended.stdout[:5]) == (0, "text:")
    assert runs.load_checkpoint(folder / "runs" / "text" / "last.safetensors")[2]["step"] == 2
    ended = shell("python -m npgpt.sample --max-new-tokens 3 --seed 1 >&-", folder)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (2, "error: standard output: Bad file descriptor")
    talks = typed.replace("--context 8", "--context 64 --val-fraction 0")
    assert shell(f"python -m npgpt.train {talks} --out talks", folder).returncode == 0
    ended = shell("echo hi | python -m npgpt.chat --model talks >&-", folder)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (2, "error: standard output: Bad file descriptor")
    ended = shell(f"python -m npgpt.train {typed} --out closed <&- >&- 2>&-", folder)
    assert ended.returncode == 2  # it can't say what it has made, and has made it
    assert runs.load_checkpoint(folder / "closed" / "last.safetensors")[2]["step"] == 2


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """Or what a library prints would be written into it."""
    (tmp_path / "a.py").write_text(
        "from npgpt.streams import standard_streams\n"
        "with standard_streams(), open('found', 'w') as file:\n"
        "    file.write(str(file.fileno()))\n"
    )
    assert shell(f"PYTHONPATH='{ROOT}' python -m a <&- >&- 2>&-", tmp_path).returncode == 0
    assert int((tmp_path / "found").read_text()) > 2


def test_what_steers_a_terminal_is_left_out():
    assert without_control("a\r\x1b[2J\x9b2J\x7f\x0b\0é\tc\n\x80字") == "a[2J2Jé\tc\n字"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_a_stream_changes_no_exit_code(folder):
    """Python would end with 120 if something were left that it can't write."""
    assert shell("python -m npgpt.info nothing 2> /dev/full", folder).returncode == 2
    for name in ("npgpt", "npgpt.exercises"):
        ended = shell(f"python -m {name} > /dev/full", folder)
        assert (ended.returncode, ended.stderr) == (2, "error: No space left on device\n")


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_second_signal_says_which_it_was(number, code, capsys):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("nohup: the tests were started so that a hang-up is ignored")
    with StopRequest("stopping") as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert stop.number == signal.SIGINT  # the first one
    with pytest.raises(Stopped):
        stop.check()
    assert capsys.readouterr().err == "stopping\n"


def test_a_signal_that_comes_while_a_message_is_written(monkeypatch, capfd):
    """Python's buffered stream refuses to be written to meanwhile; the notice is written past it."""

    class Raw(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if not stop.requested:
                signal.raise_signal(signal.SIGTERM)
            written.append(bytes(data))
            return len(data)

    written = []
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Raw()), line_buffering=True))
    with StopRequest("stopping") as stop:
        print("a line", file=sys.stderr)
    assert (stop.number, written) == (signal.SIGTERM, [b"a line\n"])
    assert capfd.readouterr().err == "stopping\n"


def test_in_another_thread_no_signal_is_waited_for():
    """Python lets the main one alone have handlers; as in a notebook or a server."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopRequest("stopping") as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)  # as under nohup
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
