"""metrics.jsonl, through stops and kills."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from npgpt.training import metrics as module
from npgpt.training.metrics import Metrics

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


@pytest.mark.parametrize(
    "rest", ['{"kind": "train", "st', '{"kind": "eval"}', "[3]", "\udcff\udcfe", "null\n", "[" * 100_000, "\n\n"]
)
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


def test_what_a_full_disk_cuts_short_costs_no_other_line(metrics, monkeypatch):
    def write(text):
        with open(metrics.path, "ab") as file:
            file.write(text[:9].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "open", lambda *_, **__: nullcontext(SimpleNamespace(write=write)), raising=False)
    metrics.write("train", 4)
    monkeypatch.undo()
    metrics.write("train", 5)
    metrics.write("train", 6)
    lines = metrics.path.read_text().split("\n")
    assert [json.loads(line)["step"] for line in lines[-3:-1]] == [5, 6]
    metrics.truncate(dict.fromkeys(("train", "eval", "sample"), 6))
    assert read(metrics.path) == [*LINES, {"kind": "train", "step": 5}, {"kind": "train", "step": 6}]


def test_others_are_told_of_each_line(tmp_path):
    told = []
    metrics = Metrics(tmp_path / "gone" / "metrics.jsonl", lambda *line: told.append(line))
    metrics.write("train", 1, loss=2.5)
    assert told == [("train", 1, {"loss": 2.5})]
