"""What a run tells: lines on stderr, metrics.jsonl through stops and kills, and how a signal becomes a wish to stop."""

import json
import signal

import pytest

from npgpt.errors import CheckpointError
from npgpt.training.log import Metrics, StopRequest, log, log_text, minutes


def test_progress_goes_to_stderr(capsys):
    log("1/2  loss 3.0")
    assert capsys.readouterr() == ("", "1/2  loss 3.0\n")


def test_a_text_of_the_model_is_indented_and_can_not_steer_the_terminal(capsys):
    log_text("naïve\r\n\x1b[31mred\a\x9b\x0e\x00 字\ttab\u2028")
    assert capsys.readouterr().err == "    | naïve\n    | [31mred 字\ttab\u2028\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (0.6, "0:01"), (59.6, "1:00"), (75, "1:15"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_minutes(seconds, shown):
    assert minutes(seconds) == shown


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
        metrics.write(line)
    return metrics


def test_a_line_for_each_write(metrics):
    assert read(metrics.path) == LINES
    Metrics(metrics.path).write({"kind": "train", "step": 4})
    assert read(metrics.path) == [*LINES, {"kind": "train", "step": 4}]


@pytest.mark.parametrize(
    ("step", "looked", "kept"),
    [(9, True, 6), (3, False, 6), (2, True, 5), (2, False, 3), (1, False, 2), (0, True, 1), (0, False, 0)],
)
def test_what_a_run_has_lost_is_forgotten(metrics, step, looked, kept):
    metrics.forget_after(step, looked)
    if kept:
        assert read(metrics.path) == LINES[:kept]
    else:
        assert metrics.path.read_bytes() == b""


@pytest.mark.parametrize("rest", ['{"kind": "train", "st', '{"kind": "eval"}', "[3]", "\udcff\udcfe", "null\n", "\n\n"])
def test_a_line_that_a_kill_cut_short_is_forgotten(metrics, rest):
    with open(metrics.path, "ab") as file:
        file.write(rest.encode("utf-8", "surrogateescape"))
    metrics.forget_after(3, looked=True)
    metrics.write({"kind": "train", "step": 4})
    assert read(metrics.path) == [*LINES, {"kind": "train", "step": 4}]


def test_without_a_file_there_is_nothing_to_forget(tmp_path):
    Metrics(tmp_path / "metrics.jsonl").forget_after(3, looked=True)
    assert not any(tmp_path.iterdir())


def test_a_file_that_can_not_be_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl can't be written"):
        Metrics(tmp_path / "gone" / "metrics.jsonl").write({})


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_the_handlers_are_put_back_after_an_error():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
