"""What a user sees of a run: lines where stderr is a file, one live line on a terminal."""

import fcntl
import os
import pty
import re
import struct
import termios
from contextlib import suppress
from types import SimpleNamespace

import pytest

from npgpt.training import progress as module
from npgpt.training.log import log
from npgpt.training.progress import Progress
from npgpt.training.settings import TrainSettings


def progress(steps, tokens_a_step=512, log_every=10):
    plan = TrainSettings(max_steps=steps).resolve(n_windows=1, context=64)
    inspection = SimpleNamespace(sizes=lambda: {}, passage=lambda step: {})
    noted = Progress(plan, log_every, tokens_a_step, inspection)
    noted.lines = []
    noted.metrics = SimpleNamespace(write=lambda kind, step, **values: noted.lines.append((kind, step)))
    noted.report = SimpleNamespace(update=lambda: None, write=lambda: noted.lines.append("report"))
    return noted


@pytest.mark.parametrize(("step", "tokens_a_step", "loss"), [(10, 512, 10.8249), (99_999, 491_520, 3.2944)])
def test_log_lines_fit_into_80_columns(capsys, step, tokens_a_step, loss):
    noted = progress(100_000 if step > 1000 else 1000, tokens_a_step, log_every=1)
    noted._mark -= 3.6
    noted.step(step, loss, 6e-4, 1.234)
    line = capsys.readouterr().err
    assert len(line) <= 81, line


def test_the_speed_is_that_of_the_steps_since_the_last_line(monkeypatch):
    """Evaluations, samples and what a line about a step costs are part of the run's time, and not of its speed."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    noted, lines = progress(20, tokens_a_step=8, log_every=4), []
    noted.metrics = SimpleNamespace(write=lambda kind, step, **values: lines.append((kind, step, values)))
    noted.report.update = lambda: after(3, lambda: None)
    noted.load_state_dict({"elapsed": 30.0})

    def after(seconds, note, *of):
        now[0] += seconds
        note(*of)

    after(500, noted.start)
    after(60, noted.evaluation, 0, {"train": 5.0})
    for step, seconds in enumerate((4, 1, 1, 2), 1):
        after(seconds, noted.step, step, 4.0, 1e-3, 1.0)
    after(60, noted.sample, 4, "text")
    for step in (5, 6, 7, 8):
        after(0.5, noted.step, step, 4.0, 1e-3, 1.0)
    measured = ("tokens_per_second", "seconds", "seconds_left")
    assert [(step, *map(values.get, measured)) for kind, step, values in lines if kind == "train"] == [
        (1, 2.0, 97.0, 76.0),
        (4, 6.0, 104.0, 21.3),
        (8, 16.0, 172.0, 6.0),
    ]
    after(60, noted.evaluation, 8, {"train": 4.0})
    of_evaluations = [(values["tokens"], values["seconds"]) for kind, _, values in lines if kind == "eval"]
    assert of_evaluations == [(0, 90.0), (64, 235.0)]


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="is no time in seconds"):
        progress(20).load_state_dict({"elapsed": seconds})


class Terminal:
    """A terminal of 80 columns: what was written to it, and what a person then sees."""

    def __init__(self, columns=80):
        self.outer, inner = pty.openpty()
        os.set_blocking(self.outer, False)
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(inner, "w", buffering=1, encoding="utf-8")

    def close(self):
        self.stream.close()
        os.close(self.outer)

    def screen(self) -> tuple[list[str], int]:
        """-> the lines as they are now, and the widest that one has ever been"""
        self.stream.flush()
        written = b""
        with suppress(BlockingIOError):
            while True:
                written += os.read(self.outer, 4096)
        lines, widest, at = [[]], 0, 0
        for character in written.decode():
            if character == "\r":
                at = 0
            elif character == "\n":
                lines.append([])
            else:
                lines[-1][at : at + 1] = character
                at += 1
                widest = max(widest, at)
        return ["".join(line).rstrip() for line in lines], widest


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.mark.parametrize(("steps", "tokens_a_step"), [(200, 1024), (1_000_000, 491_520)])
def test_a_terminal_shows_one_live_line_below_what_is_logged(monkeypatch, terminal, steps, tokens_a_step):
    monkeypatch.setattr("sys.stderr", terminal.stream)
    noted = progress(steps, tokens_a_step)
    noted.evaluation(0, {"train": 10.84, "val": 10.8222})
    for step in range(steps - 5, steps):
        noted._mark -= 0.4  # as long as a step of the default model takes
        noted.step(step, 4.5, 1e-3, 2.0)
        noted.live._bar.refresh()
    log("something else")
    lines, widest = terminal.screen()
    noted.end()  # or tqdm would still count its bar among the open ones, while the garbage collector closes it
    assert widest <= 80
    place = f"{steps - 1}/{steps} "
    assert lines[-1].startswith(place)
    assert "█" in lines[-1]
    assert "  loss" not in "".join(lines[:-1])  # no line for a step
    assert [line for line in lines if "10.84" in line] == [
        f"{'0':>{len(str(steps))}}/{steps}  train loss 10.8400  val loss 10.8222"
    ]
    assert lines[-2] == "something else"
    assert re.fullmatch(
        r"loss 4\.5000  val 10\.8222  [\d.]+[kM]? tok/s  [\d:]+ left", lines[-1].split("█")[-1].strip(" ▏▎▍▌▋▊▉")
    )


def test_the_live_line_is_gone_at_the_end(monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr", terminal.stream)
    noted = progress(5)
    noted.step(4, 4.5, 1e-3, 2.0)
    noted.end()
    lines, _ = terminal.screen()
    assert "".join(lines) == ""
    assert noted.lines[-1] == "report"


def test_a_narrow_terminal_gets_a_line_too(monkeypatch):
    terminal = Terminal(columns=40)
    monkeypatch.setattr("sys.stderr", terminal.stream)
    noted = progress(200)
    noted.step(100, 4.5, 1e-3, 2.0)
    noted.live._bar.refresh()
    lines, widest = terminal.screen()
    noted.end()
    terminal.close()
    assert widest <= 40
    assert lines[-1].startswith("100/200")
