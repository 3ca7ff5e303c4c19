"""The page as a reader sees it, in a browser: charts, axes, texts, on a phone and by the keyboard."""

from itertools import pairwise

import pytest
from helpers.browser import PHONE, WIDE

from npgpt.reporting import page, read_record
from reporting.runs import lines_of_a_run, write_run

NASTY = "</script><img src=x onerror='document.title=1'>\u2028<b>bold</b>"

# {title of a chart: {name of a line: how many points are drawn}}
POINTS = """
return Object.fromEntries([...document.querySelectorAll("figure")].map((figure) => [
  figure.querySelector("h3").textContent,
  Object.fromEntries([...figure.querySelectorAll("path[data-line]")].map(
    (path) => [path.dataset.line, path.getAttribute("d").split("L").length]))]))
"""
# How far to the right each line of the loss chart begins and ends, from 0 to 1.
ENDS = """
const figure = document.querySelector("figure"), width = figure.querySelector("svg").viewBox.baseVal.width;
return Object.fromEntries([...figure.querySelectorAll("path[data-line]")].map((path) => {
  const places = path.getAttribute("d").slice(1).split("L");
  return [path.dataset.line, [places[0], places.at(-1)].map((place) => Number(place.split(" ")[0]) / width)];
}))
"""
LABELS = "return [...document.querySelectorAll('figure:first-of-type svg')][0].textContent"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    lines = lines_of_a_run(text=NASTY, pieces=("The", NASTY, "."))
    run = write_run(tmp_path_factory.mktemp("runs") / "a run <i>", lines)
    (run / "report.html").write_text(page([read_record(run)]), encoding="utf-8")
    return run / "report.html"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "scratch", lines_of_a_run(steps=20))
    second = write_run(folder / "gpt2", lines_of_a_run(steps=40), lr=0.5)
    (folder / "both.html").write_text(page([read_record(first), read_record(second)]), encoding="utf-8")
    return folder / "both.html"


@pytest.fixture
def opened(browser, report):
    browser.open(report)
    yield browser
    assert browser.messages() == []
    assert browser.requests() == []


def test_every_chart_has_its_lines_with_a_point_for_each_measurement(opened):
    charts = opened.run(POINTS)
    layers = dict.fromkeys(("token embedding", "position embedding", "block 0", "block 1", "last layer norm"), 40)
    assert charts == {
        "Loss": {"each batch": 40, "training": 5, "validation": 5},
        "Learning rate": {"learning rate": 40},
        "Gradient norm": {"norm": 40},
        "Speed": {"tokens per second": 40},
        "Gradients": layers,
        "Weights": layers,
        "Residual stream": {"embedding": 5, "block 0": 5, "block 1": 5},
        "What attention adds": {"block 0, attention": 5, "block 1, attention": 5},
        "What the MLP adds": {"block 0, MLP": 5, "block 1, MLP": 5},
    }


def test_the_axes_of_all_charts_are_switched_together(opened):
    by_step, labels = opened.run(ENDS), opened.run(LABELS)
    assert "steps" in labels
    for axis, word, last in (("tokens", "tokens", "600"), ("seconds", "time (h:mm:ss)", "0:20")):
        opened.run(f"document.querySelector('input[value={axis}]').click()")
        labels = opened.run(LABELS)
        assert word in labels
        assert last in labels
        assert opened.run(ENDS)["validation"] == pytest.approx(by_step["validation"], abs=0.01)
    opened.run("document.querySelector('input[value=step]').click()")
    assert opened.run(ENDS) == by_step


def test_a_log_scale_and_lines_that_are_switched_off(opened):
    path = "return document.querySelector('figure path[data-line=validation]').getAttribute('d')"
    before = opened.run(path)
    opened.click("figure:first-of-type.main figcaption input")
    assert opened.run(path) != before
    opened.run("document.querySelector('figure .legend button').click()")
    assert list(opened.run(ENDS)) == ["training", "validation"]
    assert opened.run("return document.querySelector('figure .legend button').ariaPressed") == "false"


def test_values_are_read_with_the_keyboard(opened):
    opened.run("document.querySelector('.plot').focus()")
    opened.press("End")
    said = opened.run("return document.querySelector('figure output').textContent")
    assert said == "step 40: each batch 3, training 3, validation 5"
    opened.press("Home", "Right")
    assert opened.run("return document.querySelector('figure output').textContent") == "step 1: each batch 4.95"


def test_every_chart_has_a_text_and_a_table_behind_it(opened):
    labels = opened.run("return [...document.querySelectorAll('.plot svg')].map((svg) => svg.ariaLabel)")
    assert labels[0].startswith("Loss, against steps: each batch from 4.95 to 3; training from 5 to 3; validation")
    assert all(labels)
    opened.run("for (const details of document.querySelectorAll('figure details')) details.open = true")
    rows = "return [...document.querySelectorAll('figure')].map((f) => f.querySelectorAll('tbody tr').length)"
    assert opened.run("return new Promise((done) => setTimeout(() => done(1), 50))") == 1
    assert opened.run(rows) == [41, 40, 40, 40, 40, 40, 5, 5, 5]
    headings = opened.run("return [...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_texts_of_strangers_are_shown_as_text(opened):
    assert opened.run("return document.title") == "a run <i>: training report"
    assert opened.run("return document.querySelector('h1').textContent") == "a run <i>"
    samples = opened.run("return [...document.querySelectorAll('.texts p')].map((p) => p.textContent)")
    assert samples == [f"{NASTY} {step}" for step in (40, 30, 20, 10, 0)]
    assert opened.run("return document.querySelectorAll('main img, main b, main script').length") == 0


def test_the_passage_at_any_evaluation_beside_the_last_one(opened):
    heat = (
        "return [...document.querySelectorAll('.passage')].map((p) => [...p.children].map((s) => s.style.background))"
    )
    first, last = opened.run(heat)
    assert first[0] == last[0] == ""  # the first one is given
    assert "0.5" in first[1]  # 4 of 8 nats
    assert "0.45" in last[1]
    opened.run(
        "const s = document.querySelector('input[type=range]'); s.value = 2; s.dispatchEvent(new Event('input'))"
    )
    title = opened.run("return document.querySelector('.passages h3').textContent")
    assert title == "After step 20: 3.800 nats per token"


def test_what_is_needed_to_repeat_it(opened):
    assert (
        opened.run("return document.querySelector('pre').textContent")
        == "python -m npgpt.train text.txt --max-steps 40"
    )
    text = opened.run("return document.body.textContent")
    assert "a <b>fast</b> one" in text
    assert "weight_decay" in text


def test_what_the_curves_say(opened):
    text = opened.run("return document.querySelector('.note').textContent")
    assert "lowest after step 20 and has risen by 0.8 since, while the training loss went on falling" in text


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, WIDE, (1280, 400), (320, 600)])
def test_no_page_is_wider_than_its_screen(browser, report, comparison, size, dark):
    for file in (report, comparison):
        browser.open(file, size, dark)
        assert browser.run("return document.documentElement.scrollWidth") <= size[0]
        assert browser.messages() == []
        texts = browser.run(
            "return [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        ink, paper = (sum(map(int, colour.strip("rgb()").split(", "))) for colour in texts)
        assert (ink > paper) == dark


def test_it_can_be_printed(browser, report, tmp_path):
    browser.open(report, dark=True)
    browser.print(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    assert browser.run(POINTS)["Loss"]["validation"] == 5


def test_a_comparison_has_both_runs_in_one_plot(browser, comparison):
    browser.open(comparison)
    charts = browser.run(POINTS)
    assert charts["Loss"] == {
        "scratch: training": 3, "scratch: validation": 3, "gpt2: training": 5, "gpt2: validation": 5,
    }  # fmt: skip
    assert charts["Learning rate"] == {"scratch": 20, "gpt2": 40}
    ends = browser.run(ENDS)
    assert ends["scratch: validation"][1] < ends["gpt2: validation"][1]
    rows = browser.run("return [...document.querySelectorAll('table')].map((t) => [...t.rows].map((r) => r.innerText))")
    assert ["training: lr", "0.001", "0.5"] in [row.split("\t") for table in rows for row in table]
    assert browser.messages() == browser.requests() == []


@pytest.mark.parametrize("size", [0.0, 0.0721, 1.0, 3e-9, 7e12])
def test_sizes_that_hardly_change(browser, tmp_path, size):
    """A logarithmic axis has few round places between them, and none for zeros."""
    lines = [{"kind": "eval", "step": step, "val_loss": size} for step in range(3)]
    for step in range(3):
        sizes = {"h.0": size, "h.1": size * (1 + step / 1000)}
        lines.append({"kind": "layers", "step": step, "gradient": sizes, "weight": sizes})
    run = write_run(tmp_path / "run", lines)
    (run / "report.html").write_text(page([read_record(run)]), encoding="utf-8")
    browser.open(run / "report.html")
    browser.run("document.querySelector('figure input').click()")
    assert browser.messages() == []
    assert "NaN" not in browser.run("return document.querySelector('main').innerHTML")


def test_a_run_that_has_measured_little(browser, tmp_path):
    for i, line in enumerate([{"kind": "eval", "step": 0, "val_loss": 1.0}, {"kind": "train", "step": 1}]):
        run = write_run(tmp_path / str(i), [line])
        (run / "report.html").write_text(page([read_record(run)]), encoding="utf-8")
        browser.open(run / "report.html")
        assert browser.messages() == []
        assert browser.run("return document.querySelector('h1').textContent") == str(i)
