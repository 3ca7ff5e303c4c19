"""How a command's process ends: exit codes, messages, interrupts that were lost on the way."""

import io
import subprocess
import sys
import textwrap
import warnings
from unittest import mock

import pytest
from helpers.commands import Ended

from npgpt import process
from npgpt.errors import CheckpointWarning, UserError
from npgpt.signals import Stopped


def ends(main, **streams) -> Ended:
    """What ``run`` makes of a main that raises or returns."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for encoding in ("ascii", "utf-8"))
    with mock.patch.multiple(sys, stdout=out, stderr=err), pytest.raises(SystemExit) as end:
        process.run(main)
    return Ended(end.value.code, *(stream.flush() or stream.buffer.getvalue().decode() for stream in (out, err)))


def raises(error):
    def main():
        raise error

    return main


def test_how_a_process_ends():
    assert ends(lambda: 0) == (0, "", "")
    assert ends(raises(UserError("two\nlines"))) == (2, "", "error: two\nlines\n")
    assert ends(raises(KeyboardInterrupt())) == (130, "", "stopped\n")
    assert ends(raises(OSError(28, "No space left", "x"))) == (2, "", "error: x: No space left\n")
    temporary = OSError(28, "No space left", "/a b/.x.bin.0123abcd.npgpt-tmp")
    assert ends(raises(temporary)) == (2, "", "error: /a b/x.bin: No space left\n")
    assert ends(raises(OSError(28, "No space left"))) == (2, "", "error: No space left\n")  # standard output, say
    assert ends(raises(OSError("by itself"))) == (2, "", "error: by itself\n")
    assert ends(raises(MemoryError("Unable"))) == (2, "", "error: not enough memory. Unable\n")
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        process.run(raises(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("system", "error", "closed"),
    [("linux", BrokenPipeError(32, "Broken pipe"), True), ("win32", OSError(22, "Invalid argument"), True),
     ("linux", OSError(22, "Invalid argument"), False), ("win32", OSError(22, "Invalid argument", "a?"), False)],
)  # fmt: skip
def test_what_the_system_says_of_a_pipe_that_was_closed_at_its_other_end(monkeypatch, system, error, closed):
    monkeypatch.setattr(process.sys, "platform", system)
    assert process._nobody_reads(error) == closed


def test_an_interrupt_that_an_import_makes_an_error_of_is_one():
    def main():
        try:
            raise Stopped(15)
        except KeyboardInterrupt as error:
            raise ImportError("please read this") from error

    assert ends(main) == (143, "", "stopped\n")
    with pytest.raises(ImportError):
        process.run(raises(ImportError("no such module")))


def test_an_interrupt_that_an_import_dropped():
    """As Numba's extension modules do, which raise an ImportError without a cause."""
    script = """
        import signal
        from npgpt.process import run

        def main():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                pass
            raise ImportError("numba._devicearray failed to import")

        run(main)"""
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
               + textwrap.dedent(script)]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")


def test_an_interrupt_in_a_destructor_is_not_lost():
    """And what the process waits for ends at once."""
    script = """
        import time
        from npgpt.process import run

        class Interrupted:
            def __del__(self):
                raise KeyboardInterrupt

        def main():
            Interrupted()
            time.sleep(600)

        run(main)"""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")


@pytest.mark.parametrize(
    ("error", "code", "is_told"),
    [("KeyboardInterrupt", 130, False), ("Stopped(15)", 143, False), ("UserError", 2, True)],
)
def test_an_interrupt_in_a_constructor_leaves_nothing_to_say_of_the_object(error, code, is_told):
    script = f"""
        from npgpt.errors import UserError
        from npgpt.process import run
        from npgpt.signals import Stopped

        class HalfMade:
            def __init__(self):
                raise {error}

            def __del__(self):
                del self.name

        run(HalfMade)"""
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert ("Exception ignored in" in ended.stderr) == is_told
    assert is_told or ended.stderr == "stopped\n"


def test_the_traceback_behind_a_message(monkeypatch):
    for value, shown in (("1", True), ("0", False)):
        monkeypatch.setenv("NPGPT_TRACEBACK", value)
        ended = ends(raises(UserError("why")))
        assert ended.code == 2
        assert ended.err.endswith("error: why\n")
        assert ended.err.startswith("Traceback (most recent call last):") == shown


def test_a_character_that_the_terminal_does_not_have():
    assert ends(lambda: print("naïve") or 0) == (0, "na?ve\n", "")


def test_warnings_of_others_are_shown_as_python_shows_them(capsys):
    def main():
        warnings.warn("mind the step", UserWarning, stacklevel=1)
        warnings.warn("a tensor was ignored", CheckpointWarning, stacklevel=1)
        return 0

    with pytest.raises(SystemExit) as ended:
        process.run(main)
    shown = capsys.readouterr().err
    assert ended.value.code == 0
    assert "test_process.py:" in shown
    assert "UserWarning: mind the step\n" in shown
    assert shown.endswith("\nwarning: a tensor was ignored\n")
