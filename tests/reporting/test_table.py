"""metrics.csv holds the numbers of metrics.jsonl, and nothing that a spreadsheet would obey."""

import csv
import json
import sys
import tracemalloc

from helpers.commands import RUN, command, train

from npgpt.reporting import read_record, table
from reporting.runs import lines_of_a_run, write_run


def rows(lines) -> dict[int, dict[str, float]]:
    return {
        int(row["step"]): {name: float(value) for name, value in row.items() if value != ""}
        for row in csv.DictReader(lines)
    }


def flat(run) -> dict[int, dict[str, float]]:
    """The numbers of metrics.jsonl by step, written down here once more."""
    found = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]):
        if line["kind"] in ("train", "eval", "layers", "passage"):
            row = found.setdefault(line["step"], {})
            for name, value in line.items():
                if isinstance(value, dict):
                    row |= {f"{name}.{part}": number for part, number in value.items()}
                elif isinstance(value, int | float):
                    row[name] = value
    return found


def test_a_row_for_each_step_with_exactly_the_numbers_of_its_lines(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", lines_of_a_run())
    lines = list(table(read_record(run)))
    assert len(lines) == 42
    assert rows(lines) == flat(run)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["npgpt.reporting.table"], "CELLS", 100)
        assert list(table(read_record(run))) == lines
    assert lines[1].startswith("0,,,,0,0,,,5,5,")  # the evaluation before the first step
    assert lines[2].startswith("1,4.95,0.001,2,16,0.5,900,19.5,,,")


def test_a_run_writes_it_and_so_does_one_that_is_resumed(folder):
    run, _ = train(folder, *RUN)
    assert rows((run / "metrics.csv").read_text().splitlines()) == flat(run)
    assert command("train", "--resume", run, "--max-steps", 6, cwd=folder).code == 0
    found = rows((run / "metrics.csv").read_text().splitlines())
    assert found == flat(run)
    assert sorted(found) == [0, 1, 2, 3, 4, 5, 6]


def test_names_from_strangers_are_no_formulas(tmp_path):
    odd = {"=cmd|' /C calc'!A0": 1.0, "a,b": 2.0, 'c"d\n': 3.0, "-x": 4.0}
    lines = [{"kind": "eval", "step": 1, "val_loss": 1.0, "=1+1": 2.0, "-2+3": 5.0}]
    lines.append({"kind": "layers", "step": 1, "gradient": odd, "weight": {}})
    heading, row = table(read_record(write_run(tmp_path / "run", lines)))
    assert heading == "step,val_loss,_1_1,2_3,gradient._cmd____C_calc__A0,gradient.a_b,gradient.c_d_,gradient.-x\n"
    assert row == "1,1,2,5,1,2,3,4\n"


def test_of_lines_with_one_step_each_number_that_is_there_counts(tmp_path):
    lines = [{"kind": "eval", "step": 1, "val_loss": 1.0, "train_loss": 3.0}, {"kind": "eval", "step": 1}]
    lines.append({"kind": "eval", "step": 1, "val_loss": 2.0})
    assert list(table(read_record(write_run(tmp_path / "run", lines)))) == ["step,val_loss,train_loss\n", "1,2,3\n"]


def test_columns_that_are_nearly_empty_take_no_memory(tmp_path):
    """A stranger's lines of thirty bytes can make 400 columns of each kind longer."""
    wide = {f"h.{i}": 0.5 for i in range(399)}
    lines = [{"kind": "train", "step": step, "loss": 1.5} for step in range(1500)]
    record = read_record(
        write_run(tmp_path / "run", [{"kind": "layers", "step": 7, "gradient": wide, "weight": wide}, *lines])
    )
    tracemalloc.start()
    try:
        found = [line.rstrip(",\n") for line in table(record)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[1:3] == ["0,1.5", "1,1.5"]
    assert found[8] == "7,1.5" + 798 * ",0.5"
    assert peak < 8e6  # all cells as numbers take 9.6e6
