"""python -m npgpt.report: the report of a run again, and several runs in one page."""

import pytest
from helpers.commands import RUN, command, refused, train
from reporting.runs import lines_of_a_run, write_run
from reporting.test_page import data_of

from npgpt.errors import ConfigError
from npgpt.html_page import check_page
from npgpt.training import reporter
from npgpt.training.reporter import Reporter


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "a", lines_of_a_run())
    write_run(tmp_path / "b", [*lines_of_a_run(), b"damaged\n"], lr=0.5)
    return tmp_path


def names(page):
    return [run["name"] for run in data_of(page.read_text(encoding="utf-8"))["runs"]]


def test_one_run(runs):
    ended = command("report", "a", cwd=runs)
    assert ended == (0, "a/report.html: open it in a browser\n", "")
    assert names(runs / "a" / "report.html") == ["a"]
    assert (runs / "a" / "metrics.csv").read_text().count("\n") == 42


def test_several_runs_and_lines_that_can_not_be_read(runs):
    ended = command("report", "a", runs / "b", "--out", "both.html", cwd=runs)
    said = f"{runs / 'b'}: 1 lines of metrics.jsonl could not be read and are left out\n"
    assert ended == (0, "both.html: open it in a browser\n", said)
    assert names(runs / "both.html") == ["a", "b"]
    assert command("report", "b", "a", cwd=runs).out == "comparison.html: open it in a browser\n"
    assert names(runs / "comparison.html") == ["b", "a"]
    assert not (runs / "a" / "report.html").exists()


@pytest.mark.parametrize("name", ["report.html", "metrics.csv"])
def test_nothing_is_written_through_a_link_in_a_strangers_folder(runs, name):
    (runs / "mine").write_text("mine")
    (runs / "a" / name).symlink_to(runs / "mine")
    refused("report", "a", cwd=runs, words=[f"a/{name} is a link"])
    assert (runs / "mine").read_text() == "mine"


def test_a_link_to_itself_is_no_page(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="loop is there already, and is no page"):
        check_page(tmp_path / "loop")


def test_mistakes(runs):
    refused("report", cwd=runs, words=["RUN"])
    refused("report", "a", "gone", cwd=runs, words=["gone is not the folder of a run"])
    refused("report", "a", "a", cwd=runs, words=["a is named twice"])
    refused("report", "a", "b", "--out", "gone/x.html", cwd=runs, words=["gone is not a folder that you may"])
    for there in ("a/config.json", "b/metrics.jsonl", "a"):
        refused("report", "a", "--out", there, cwd=runs, words=[f"{there} is ", "name a"])
    (runs / "a" / "metrics.jsonl").write_bytes(b"\x00" * 100 + b"\n")
    refused("report", "a", cwd=runs, words=["a/metrics.jsonl: no losses are in it"])


def test_a_run_writes_its_report_while_it_goes_on_and_says_where(folder, monkeypatch):
    written = []
    monkeypatch.setattr(reporter, "EVERY", 0)
    monkeypatch.setattr(reporter, "PART", 0)
    write = reporter.write_report
    monkeypatch.setattr(reporter, "write_report", lambda run: written.append(write(run)))
    run, ended = train(folder, *RUN)
    assert f"report: {run.relative_to(folder)}/report.html" in ended.err
    assert len(written) >= 7  # 4 steps and 3 evaluations
    data = data_of((run / "report.html").read_text(encoding="utf-8"))["runs"][0]
    assert data["last"]["train"]["step"] == data["max_steps"] == 4
    assert [line["step"] for line in data["passages"]] == [0, 2, 4]


def test_its_cost_is_bounded(tmp_path, monkeypatch):
    clock, written = {"now": 100.0}, []
    monkeypatch.setattr(reporter.time, "monotonic", lambda: clock["now"])

    def write(run):
        written.append(clock["now"])
        clock["now"] += 0.5  # seconds, which is much

    monkeypatch.setattr(reporter, "write_report", write)
    report = Reporter(tmp_path)
    while clock["now"] < 300:
        report.update()
        clock["now"] += 1
    assert written == [100, pytest.approx(151, abs=1), pytest.approx(202, abs=2), pytest.approx(253, abs=2)]


def test_a_quick_one_is_written_every_ten_seconds(tmp_path, monkeypatch):
    clock, written = {"now": 100.0}, []
    monkeypatch.setattr(reporter.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(reporter, "write_report", lambda run: written.append(clock["now"]))
    report = Reporter(tmp_path)
    while clock["now"] < 125:
        report.update()
        clock["now"] += 1
    assert written == [100, 110, 120]


@pytest.mark.parametrize("full", [False, True])
def test_a_report_that_can_not_be_written_ends_nothing(tmp_path, capsys, monkeypatch, full):
    if full:
        error = OSError(28, "No space left on device")
        monkeypatch.setattr(reporter, "write_report", lambda run: (_ for _ in ()).throw(error))
    report = Reporter(tmp_path / "gone")
    report.write()  # there is nothing to write yet
    assert capsys.readouterr().err == ""
    report.update()
    report.update()
    report.write()
    assert capsys.readouterr().err.count("the report can't be written") == 1
