"""What a run has written is read again, whoever wrote it."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from npgpt.errors import CheckpointError
from npgpt.reporting import read_record
from npgpt.reporting.record import MAX_COLUMNS, MAX_FACTS, MAX_LINE, MAX_PIECES, MAX_TEXT, MAX_TEXTS, Columns, Spread
from reporting.runs import lines_of_a_run, write_run

EVAL = {"kind": "eval", "step": 1, "train_loss": 2.0, "val_loss": 3.0}


def test_all_kinds(tmp_path):
    record = read_record(write_run(tmp_path / "a run", lines_of_a_run()))
    assert (record.name, record.skipped, len(record.train), len(record.evals)) == ("a run", 0, 40, 5)
    assert record.train["loss"].tolist() == pytest.approx([5 - 0.05 * step for step in range(1, 41)])
    assert record.gradient["h.1"][-1] == pytest.approx(0.8)
    assert record.activation["h.1.mlp"].tolist() == [1.2] * 5
    assert [sample["step"] for sample in record.samples.items()] == [0, 10, 20, 30, 40]
    assert record.passages.items()[-1] == {"step": 40, "pieces": ["The", " jury", "."], "losses": [3.6, 3.6]}
    assert record.processes.items()[0]["machine"]["cores"] == "2"


BAD = {
    "not JSON": b"oh no\n",
    "not UTF-8": b'{"kind": "sample", "step": 1, "text": "\xff"}\n',
    "deep": b"[" * 100_000 + b"\n",
    "endless": b" " * (2 * MAX_LINE) + b"x" * MAX_LINE + b"\n",
    "a list": [1, 2],
    "no step": {"kind": "eval", "val_loss": 1.0},
    "a step that is true": {"kind": "eval", "step": True, "val_loss": 1.0},
    "a step below 0": {"kind": "eval", "step": -1, "val_loss": 1.0},
    "a step of many digits": b'{"kind": "eval", "step": 1' + b"0" * 5000 + b"}\n",
    "a fraction of a step": {"kind": "train", "step": 1.5, "loss": 1.0},
    "an unknown kind": {"kind": "else", "step": 1},
    "a kind that is a list": {"kind": [], "step": 1},
    "a sample without text": {"kind": "sample", "step": 1, "text": 3},
    "layers without weights": {"kind": "layers", "step": 1, "gradient": {}},
    "a passage of another size": {"kind": "passage", "step": 1, "pieces": ["a"], "losses": [1.0], "activation": {}},
    "a passage with a word for a loss": {
        "kind": "passage", "step": 1, "pieces": ["a", "b"], "losses": ["x"], "activation": {},
    },
    "a process without a machine": {"kind": "process", "step": 1, "command": "x"},
}  # fmt: skip


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_that_can_not_be_read_is_skipped_and_counted(tmp_path, line):
    record = read_record(write_run(tmp_path / "run", [EVAL, line, {**EVAL, "step": 2}]))
    assert record.skipped == 1
    assert record.evals["step"].tolist() == [1, 2]
    assert not record.samples.items() + record.passages.items() + record.processes.items()


def test_a_last_line_that_is_still_being_written_is_no_fault(tmp_path):
    record = read_record(write_run(tmp_path / "run", [EVAL, b'{"kind": "eval", "st']))
    assert (record.skipped, len(record.evals)) == (0, 1)


def test_numbers_that_are_none_are_missing(tmp_path):
    odd = b'{"kind": "train", "step": 3, "loss": NaN, "lr": Infinity, "grad_norm": "2", "tokens": true}'
    record = read_record(write_run(tmp_path / "run", [{"kind": "train", "step": 2, "loss": 1.0, "lr": 2}, odd + b"\n"]))
    assert record.skipped == 0
    assert all(math.isnan(record.train[name][1]) for name in ("loss", "lr", "grad_norm", "tokens"))
    assert record.train["loss"][0] == 1


def test_rows_come_in_the_order_of_their_steps(tmp_path):
    evals = [{**EVAL, "step": step, "val_loss": float(i)} for i, step in enumerate([5, 1, 3, 1])]
    record = read_record(write_run(tmp_path / "run", evals))
    assert record.evals["step"].tolist() == [1, 1, 3, 5]
    assert record.evals["val_loss"].tolist() == [1, 3, 2, 0]


def test_names_from_strangers_are_bounded(tmp_path):
    many = {f"layer {i}": 1.0 for i in range(5000)} | {"x" * 101: 1.0}
    lines = [EVAL] + [{"kind": "layers", "step": step, "gradient": many, "weight": {}} for step in (1, 2)]
    assert len(list(read_record(write_run(tmp_path / "run", lines)).gradient)) == MAX_COLUMNS


def test_numbers_from_strangers_are_bounded(tmp_path, monkeypatch):
    """A short last line can ask for many columns, each as long as all lines before it."""
    monkeypatch.setattr("npgpt.reporting.record.MAX_NUMBERS", 60)
    write_run(tmp_path / "full", [EVAL] * 20)  # three numbers a line
    assert len(read_record(tmp_path / "full").evals) == 20
    layers = {"kind": "layers", "step": 1, "gradient": {}, "weight": {}}
    wide = layers | {"gradient": {f"{i}": 1.0 for i in range(20)}}
    for name, lines in (("long", [EVAL] * 21), ("wide", [EVAL, *[layers] * 20, wide])):
        write_run(tmp_path / name, lines)
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: more than 60 numbers, so it can't be shown"):
            read_record(tmp_path / name)


def test_numbers_from_strangers_are_bounded_in_all(tmp_path, monkeypatch):
    """Not only those of each kind: 12 evaluations are 36 numbers, 12 lines about layers 24."""
    monkeypatch.setattr("npgpt.reporting.record.MAX_NUMBERS", 60)
    layers = {"kind": "layers", "step": 1, "gradient": {}, "weight": {}}
    assert len(read_record(write_run(tmp_path / "full", [EVAL, layers] * 12)).weight) == 12
    with pytest.raises(CheckpointError, match="more than 60 numbers"):
        read_record(write_run(tmp_path / "more", [EVAL, layers] * 12 + [layers]))


def test_texts_from_strangers_are_bounded(tmp_path):
    pieces = {kind: {"kind": "passage", "step": 1, "pieces": p, "losses": [1.0] * (len(p) - 1), "activation": {}}
              for kind, p in (("most", ["a" * 200] * MAX_PIECES), ("many", ["a"] * (MAX_PIECES + 1)),
                              ("long", ["a", "a" * 201]))}  # fmt: skip
    machine = {f"{i:02}" + "n" * 200: "v" * 500 for i in range(60)}
    lines = [EVAL, {"kind": "sample", "step": 1, "text": "t" * (MAX_TEXT + 1)}, *pieces.values()]
    facts = {"command": "c" * (MAX_TEXT + 1)} | {f"fact {i}": i for i in range(60)} | {"machine": machine}
    lines += [{"kind": "process", "step": 1, **facts}]
    record = read_record(write_run(tmp_path / "run", lines))
    assert record.samples.items() == [{"step": 1, "text": "t" * MAX_TEXT}]
    (passage,) = record.passages.items()
    assert (len(passage["pieces"]), record.skipped) == (MAX_PIECES, 2)
    (process,) = record.processes.items()
    assert process["command"] == "c" * MAX_TEXT
    assert len(process) == MAX_FACTS + 1
    assert process["machine"] == {f"{i:02}" + "n" * 98: "v" * 300 for i in range(50)}


def test_texts_are_spread_over_the_run():
    for n in (0, 1, 2, MAX_TEXTS, 2 * MAX_TEXTS - 1, 2 * MAX_TEXTS, 1000, 12_345):
        spread = Spread()
        for i in range(n):
            spread.add({"step": i})
        steps = [item["step"] for item in spread.items()]
        assert len(steps) <= MAX_TEXTS
        assert steps == sorted(set(steps))
        assert len(steps) >= min(n, MAX_TEXTS)
        if n:
            assert (steps[0], steps[-1]) == (0, n - 1)
            assert max(np.diff(steps), default=1) <= max(2, 3 * n / MAX_TEXTS)


def test_the_folder_in_which_one_is_has_its_name_too(tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "my run", lines_of_a_run()))
    assert read_record(Path(".")).name == "my run"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="is not the folder of a run"):
        read_record(tmp_path / "gone")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="not a run of npgpt"):
        read_record(tmp_path)


def test_a_run_without_losses(tmp_path):
    run = write_run(tmp_path / "run", [b"x\n", b"y\n"])
    with pytest.raises(CheckpointError, match="no losses are in it, and 2 lines that are none"):
        read_record(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"there is no metrics\.jsonl"):
        read_record(run)
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(CheckpointError, match=r"there is no metrics\.jsonl"):
        read_record(run)


def test_columns_of_other_rows_are_empty():
    columns = Columns()
    columns.add({"step": 3, "a": 1})
    columns.add({"step": 1, "b": 2.5})
    columns.sort()
    assert json.dumps([columns[name].tolist() for name in ("step", "a", "b")]) == "[[1.0, 3.0], [NaN, 1.0], [2.5, NaN]]"
