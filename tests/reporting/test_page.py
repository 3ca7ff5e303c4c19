"""report.html as text: one file, of bounded size, whose data can't become markup."""

import json
import os
import re
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.html_page import embedded
from npgpt.reporting import page, read_record
from npgpt.reporting.page import POINTS
from reporting.runs import lines_of_a_run, process, write_run

NASTY = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028\u2029\x00\x1b[31m\ud800&amp;字"


def data_of(html: str) -> dict:
    """The page's data as its script reads it: up to the next </script."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script', html, re.DOTALL)[1])


@given(st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
@example(NASTY)
@example({"<": "&"})
def test_embedded_data_comes_back_and_holds_nothing_that_html_reads(value):
    text = embedded(value)
    assert json.loads(text) == value
    assert re.fullmatch(r"[ -~]*", text)
    assert not set("<>&") & set(text)


def test_names_and_texts_of_strangers_are_no_markup(tmp_path):
    run = write_run(tmp_path / "<b>&run", lines_of_a_run(text=NASTY, pieces=(NASTY, "{{data}}")))
    html = page([read_record(run)])
    data = data_of(html)
    assert data["runs"][0]["samples"][-1]["text"] == NASTY + " 40"
    assert data["runs"][0]["passages"][0]["pieces"] == [NASTY, "{{data}}"]
    assert "<title>&lt;b&gt;&amp;run: training report</title>" in html
    assert html.count("<script") == html.count("</script>") == 2
    assert "alert(1)</script>" not in html


def test_nothing_is_asked_of_a_network(tmp_path):
    html = page([read_record(write_run(tmp_path / "run", lines_of_a_run()))])
    assert "default-src 'none'" in html
    addresses = re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", html)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # a name, which nobody asks for
    assert not re.search(r"\b(?:src|href)=|@import|url\(|innerHTML|insertAdjacentHTML|document\.write|\beval\(", html)


def test_a_long_run_makes_a_page_of_some_hundred_kilobytes_with_all_its_peaks(tmp_path):
    record = read_record(write_run(tmp_path / "run", lines_of_a_run()))
    for step in range(41, 20_000):
        row = {"step": step, "loss": 2.5 + step % 7 / 10, "lr": 1e-3, "grad_norm": 1.0, "tokens": step, "seconds": step}
        record.train.add({**row, "loss": 99.0 if step == 13_333 else row["loss"]})
        record.gradient.add({"step": step, **{f"h.{i}": 1.0 + (i == 3 and step == 14_444) for i in range(12)}})
    html = page([record])
    assert len(html) < 500_000
    run = data_of(html)["runs"][0]
    loss = run["series"]["loss"]
    assert len(loss["step"]) <= POINTS
    assert (loss["step"][0], loss["step"][-1]) == (1, 19_999)
    assert loss["value"][loss["step"].index(13_333)] == 99
    assert 14_444 in run["layers"]["gradient"]["step"]
    assert {len(run["series"]["smooth_loss"][name]) for name in ("step", "tokens", "seconds", "value")} != {0}


@pytest.mark.parametrize(("rows", "missing", "smooth"), [(99, 0, False), (100, 0, True), (100, 1, False)])
def test_a_line_of_many_losses_is_smoothed_if_all_are_there(tmp_path, rows, missing, smooth):
    lines = [{"kind": "train", "step": i + 1} | ({"loss": 2.0} if i >= missing else {}) for i in range(rows)]
    series = data_of(page([read_record(write_run(tmp_path / "run", lines))]))["runs"][0]["series"]
    assert ("smooth_loss" in series) == smooth


def test_a_layer_that_is_mostly_zero_has_its_peak(tmp_path):
    record = read_record(write_run(tmp_path / "run", lines_of_a_run()))
    for step in range(41, 2000):
        record.weight.add({"step": step, "wpe": float(step == 1234), "h.0": 1.0})
    with np.errstate(divide="raise"):  # or a warning of NumPy's would be all that is seen
        layers = data_of(page([record]))["runs"][0]["layers"]["weight"]
    assert layers["values"]["wpe"][layers["step"].index(1234)] == 1


def test_what_has_no_tokens_and_no_time_takes_those_of_the_steps_around(tmp_path):
    """As of runs before these were written with evaluations."""
    lines = [
        {"kind": "train", "step": step, "loss": 1.0, "tokens": 100 * step, "seconds": 2.0 * step} for step in (1, 5)
    ]
    lines += [{"kind": "eval", "step": step, "val_loss": 1.0} for step in (0, 3, 5)]
    lines += [{"kind": "eval", "step": 4, "val_loss": 1.0, "tokens": 400, "seconds": 9.5}]  # its own, if it has them
    series = data_of(page([read_record(write_run(tmp_path / "run", lines))]))["runs"][0]["series"]["val_loss"]
    assert (series["tokens"], series["seconds"]) == ([0, 300, 400, 500], [0, 6, 9.5, 10])


@pytest.mark.parametrize(
    ("count", "title"),
    [(1, "run 0"), (4, "run 0 and run 1 and run 2 and run 3"), (5, "run 0 and run 1 and run 2 and run 3 and more")],
)
def test_the_title_names_up_to_four_runs(tmp_path, count, title):
    records = [read_record(write_run(tmp_path / f"run {i}", lines_of_a_run())) for i in range(count)]
    assert f"<title>{title}: training report</title>" in page(records)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_folder_whose_name_is_no_text(tmp_path):
    """It can be reached by another name: report . in it, or by a link."""
    write_run(tmp_path / os.fsdecode(b"a\xff"), lines_of_a_run())
    (tmp_path / "run").symlink_to(os.fsdecode(b"a\xff"))
    assert "<title>a?: training report</title>" in page([read_record(tmp_path / "run")]).encode().decode()


@pytest.mark.parametrize("lines", [[{"kind": "eval", "step": 0, "val_loss": 1.0}], [{"kind": "train", "step": 1}]])
def test_a_run_of_one_line(tmp_path, lines):
    data = data_of(page([read_record(write_run(tmp_path / "run", lines))]))
    assert data["runs"][0]["best"] is None


def test_the_lowest_validation_loss_is_not_that_of_the_untrained_model(tmp_path):
    lines = [
        {"kind": "eval", "step": step, "val_loss": loss} for step, loss in [(0, 1.0), (1, 3.0), (2, 2.0), (3, 2.5)]
    ]
    data = data_of(page([read_record(write_run(tmp_path / "run", lines))]))
    assert data["runs"][0]["best"] == {"step": 2, "val_loss": 2.0}


def test_processes_and_settings_are_shown_as_they_are(tmp_path):
    lines = [*lines_of_a_run(), process(40, "python -m npgpt.train --resume runs/run --max-steps 80")]
    run = data_of(page([read_record(write_run(tmp_path / "run", lines, seed=7))]))["runs"][0]
    assert [one["step"] for one in run["processes"]] == ["0", "40"]
    assert dict(run["settings"])["training"]["seed"] == "7"
    assert run["max_steps"] == 40
