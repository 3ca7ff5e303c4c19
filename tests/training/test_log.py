"""What a run tells: lines on stderr, metrics.jsonl through stops and kills, and how a signal becomes a wish to stop."""

import json
import signal
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.signals import StopRequest
from npgpt.training.log import Metrics, Progress, format_count, format_duration, log, log_text
from npgpt.training.settings import TrainSettings


def test_progress_goes_to_stderr(capsys):
    log("1/2  loss 3.0")
    assert capsys.readouterr() == ("", "1/2  loss 3.0\n")


def test_a_text_of_the_model_is_indented_and_can_not_steer_the_terminal(capsys):
    log_text("naïve\r\n\x1b[31mred\a\x9b\x0e\x00 字\ttab\u2028")
    assert capsys.readouterr().err == "    | naïve\n    | [31mred 字\ttab\u2028\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (0.6, "0:01"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_format_duration(seconds, shown):
    assert format_duration(seconds) == shown


@given(st.floats(0, 9.9e11))
@example(999.4)
@example(9999.4)
@example(9999.6)
@example(999_499)
@example(999_600)
@example(999_499_999)
@example(999_600_000)
def test_format_count(number):
    """Examples are where the unit changes."""
    shown = format_count(number)
    assert len(shown) <= 5
    value = float(shown.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(shown[-1], 1)
    assert value == pytest.approx(number, rel=0.0051, abs=0.5)


@pytest.mark.parametrize(("step", "tokens_a_step", "loss"), [(10, 512, 10.8249), (99_999, 491_520, 3.2944)])
def test_log_lines_fit_into_80_columns(capsys, step, tokens_a_step, loss):
    plan = TrainSettings(max_steps=100_000 if step > 1000 else 1000).resolve(n_windows=1, context=64)
    noted = Progress(plan, 1, tokens_a_step)
    noted.metrics = SimpleNamespace(write=lambda *values, **named: None)
    noted._mark -= 3.6
    noted.step(step, loss, 6e-4, 1.234)
    line = capsys.readouterr().err
    assert len(line) <= 81, line


# metrics.jsonl

LINES = [
    {"kind": "eval", "step": 0, "val_loss": 5.5},
    {"kind": "train", "step": 1, "loss": 5.0},
    {"kind": "train", "step": 2, "loss": 4.5},
    {"kind": "eval", "step": 2, "val_loss": 4.25},
    {"kind": "sample", "step": 2, "text": "naïve \u2028 \x85 \n \x1c \"字\""},
    {"kind": "train", "step": 3, "loss": 4.0},
]  # fmt: skip


def read(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text[:-1].split("\n")]


@pytest.fixture
def metrics(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for line in LINES:
        metrics.write(**line)
    return metrics


def test_a_line_for_each_write(metrics):
    assert read(metrics.path) == LINES
    Metrics(metrics.path).write("train", 4)
    assert read(metrics.path) == [*LINES, {"kind": "train", "step": 4}]


@pytest.mark.parametrize(
    ("train", "evaluation", "sample", "kept"),
    [(9, 9, 9, 6), (3, 2, 2, 6), (2, 2, 2, 5), (2, 2, 0, 4), (2, 0, 0, 3), (1, 0, 0, 2), (0, 0, 0, 1), (0, -1, -1, 0)],
)
def test_lines_after_each_kinds_last_step_are_removed(metrics, train, evaluation, sample, kept):
    metrics.truncate({"train": train, "eval": evaluation, "sample": sample})
    assert metrics.path.read_bytes() == b"" if not kept else read(metrics.path) == LINES[:kept]


@pytest.mark.parametrize("rest", ['{"kind": "train", "st', '{"kind": "eval"}', "[3]", "\udcff\udcfe", "null\n", "\n\n"])
def test_a_line_that_a_kill_cut_short_is_removed(metrics, rest):
    with open(metrics.path, "ab") as file:
        file.write(rest.encode("utf-8", "surrogateescape"))
    metrics.truncate(dict.fromkeys(("train", "eval", "sample"), 3))
    metrics.write("train", 4)
    assert read(metrics.path) == [*LINES, {"kind": "train", "step": 4}]


def test_truncating_no_file_makes_none(tmp_path):
    Metrics(tmp_path / "metrics.jsonl").truncate({})
    assert not any(tmp_path.iterdir())


def test_a_file_that_can_not_be_written_is_mentioned_once(tmp_path, capsys):
    metrics = Metrics(tmp_path / "gone" / "metrics.jsonl")
    metrics.write("train", 1)
    metrics.write("train", 2)
    assert capsys.readouterr().err.count("metrics.jsonl can't be written: No such file") == 1


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("notice", ["stopping", None])
def test_a_signal_asks_and_another_ends_or_the_first_one_without_a_notice(number, notice, capsys):
    before = signal.getsignal(number)
    with StopRequest(notice) as stop:
        assert not stop.requested
        if notice:
            signal.raise_signal(number)
            assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert stop.requested
    assert capsys.readouterr().err == ("stopping\n" if notice else "")
    assert signal.getsignal(number) == before
