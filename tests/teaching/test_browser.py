"""The page as a reader sees it, in a browser: the story, the cards, gradients that lead on, a phone, the keyboard."""

from itertools import pairwise

import numpy as np
import pytest
from helpers.browser import PHONE, WIDE
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig
from npgpt.teaching.explanation import explain
from npgpt.teaching.page import page
from npgpt.text.tokenizers import ByteTokenizer

NASTY = "</script><img src=x onerror='document.title=1'>"
SCROLLS = "return document.documentElement.scrollWidth > innerWidth"
WAIT = "return new Promise((done) => setTimeout(() => done(1), 60))"


def write(folder, prompt, config, **options):
    model = with_random_parameters(GPT(GPTConfig(vocab_size=257, block_size=64, **config)))
    path = folder / f"{len(prompt)}.html"
    path.write_text(page(explain(model, ByteTokenizer(), prompt, "a model", **options)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pages"), "a beam.", {"n_layer": 2, "n_head": 2, "n_embd": 8})


@pytest.fixture
def opened(browser, written):
    browser.open(written)
    yield browser
    assert browser.messages() == []
    assert browser.requests() == []


def test_the_story_has_its_parts_in_order(opened):
    titles = opened.run("return [...document.querySelectorAll('h1, h2')].map((h) => h.textContent)")
    assert titles == [
        "a beam.", "The whole way", "1. The text becomes tokens", "2. Each token becomes a vector", "3. Block 1 of 2",
        "4. Block 2 of 2", "5. What comes next?", "6. How surprised was it?", "7. The way back", "8. Every parameter",
        "9. What AdamW does with one of them",
    ]  # fmt: skip
    operations = opened.run("return document.querySelectorAll('[id^=operation-]').length")
    assert operations == opened.run("return OPS.length") == 25
    levels = opened.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_an_array_has_the_same_bits_in_the_page(opened, written):
    model = with_random_parameters(GPT(GPTConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=8)))
    place = opened.run("return VALUES.find((value) => value.parameter === 'h.1.mlp.c_fc.weight').data")
    numbers = opened.run(f"return [...array({place}).numbers]")
    assert np.array_equal(np.array(numbers, np.float32).reshape(8, 32), model.h[1].mlp.c_fc.weight.data)


def test_choosing_a_word_changes_what_is_shown(opened):
    rows = "return document.querySelector('#block-0 .attending tbody').rows.length"
    opened.click("#words button:nth-child(2)")
    assert opened.run(rows) == 2
    assert "seen from ·" in opened.run("return document.querySelector('#block-0').textContent")
    opened.click("#words button:nth-child(6)")
    assert opened.run(rows) == 6
    weights = opened.run(
        "return [...document.querySelectorAll('#block-0 .attending .bar i')].map((i) => parseFloat(i.style.width))"
    )
    assert sum(weights) == pytest.approx(100, abs=0.4)
    opened.click("#block-0 [data-head='1'] button")
    assert "Head 2, seen from" in opened.run("return document.querySelector('#block-0').textContent")


def test_a_card_shows_formulas_slopes_and_the_code(opened):
    index = opened.run("return OPS.findIndex((op) => op.path === 'h.0.attn.c_attn')")
    opened.run(f"location.hash = 'operation-{index}'")
    opened.run(WAIT)
    card = f"document.getElementById('operation-{index}')"
    assert opened.run(f"return {card}.open")
    assert opened.run(f"return {card}.querySelectorAll('math').length") > 3
    text = opened.run(f"return {card}.textContent")
    for words in (
        "npgpt/ops/linear.py, line",
        "def linear(x: Tensor",
        "they agree to",
        "matmul_numpy",
        "The derivation",
    ):
        assert words in text, words
    back = opened.run(f"return {card}.querySelector('pre .back').textContent")
    assert back.strip() == "def backward(dy, needs):"
    opened.run(f"for (const details of {card}.querySelectorAll('details')) details.open = true")
    tops = opened.run(f"return [...{card}.querySelectorAll('pre .back')].map((line) => line.offsetTop)")
    assert len(tops) == 6
    assert all(before < after for before, after in pairwise(tops))


def test_a_click_at_a_gradient_goes_to_the_one_it_was_computed_from(opened):
    opened.run("location.hash = 'gradient-4'")
    opened.run(WAIT)
    opened.run("document.querySelector('#operation-4 .arrives .picture').scrollIntoView({block: 'center'})")
    opened.click("#operation-4 .arrives .picture")
    opened.run(WAIT)
    assert opened.run("return location.hash") == "#gradient-5"
    assert opened.run("return document.getElementById('operation-5').open")
    assert opened.run("return document.activeElement.id") == "gradient-5"
    opened.run("const link = document.querySelector('#operation-5 .arrives li a'); link.click()")
    assert opened.run("return location.hash") == "#gradient-6"


def test_numbers_are_read_with_the_keyboard(opened):
    opened.run("document.querySelector('#embedding .picture').focus()")
    opened.press("Home", "Down", "Right")
    said = opened.run("return document.querySelector('#embedding output').textContent")
    value = opened.run("const { numbers, columns } = array(VALUES[OPS[0].result].data); return numbers[columns + 1]")
    assert said.startswith("·, column 1: ")
    assert float(said.split(": ")[1].split(";")[0].replace("−", "-")) == pytest.approx(value, rel=1e-5)
    assert "gradient" in said
    reached = opened.run("return [...document.querySelectorAll('.picture')].every((one) => one.tabIndex === 0)")
    assert reached


@pytest.mark.parametrize(("size", "dark"), [(PHONE, False), (PHONE, True), (WIDE, True)])
def test_it_fits_the_screen_in_light_and_dark(browser, written, size, dark):
    browser.open(written, size, dark)
    assert not browser.run(SCROLLS)
    browser.run("for (const card of document.querySelectorAll('details')) card.open = true")
    browser.run(WAIT)
    assert not browser.run(SCROLLS)
    assert browser.run("return document.querySelectorAll('.card .inside:empty').length") == 0
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(20, 23, 28)") == dark
    assert browser.messages() == []


def test_it_prints(opened, tmp_path):
    opened.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_hostile_prompts_are_text(browser, tmp_path):
    browser.open(write(tmp_path, NASTY, {"n_layer": 1, "n_head": 1, "n_embd": 4}, slopes=False))
    assert browser.run("return document.querySelector('h1').textContent") == NASTY
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return document.title").startswith(NASTY)
    assert "made without slopes" in browser.run("return document.body.textContent")
    assert browser.messages() == []


def test_a_thinned_page_says_so(browser, tmp_path):
    path = write(tmp_path, "thin", {"n_layer": 1, "n_head": 2, "n_embd": 200}, slopes=False)
    browser.open(path)
    assert "Large arrays are thinned" in browser.run("return document.body.textContent")
    browser.run("document.querySelector('#parameters details').open = true")
    browser.run(WAIT)
    assert "Thinned: 40 of 257 rows, 64 of 200 columns." in browser.run("return document.body.textContent")
    assert browser.messages() == []
