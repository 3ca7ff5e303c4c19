"""The playground's page in a browser: by mouse, by keyboard, on a phone, and when things go wrong."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers.browser import PHONE
from helpers.serving import SETTINGS, running, tiny_engine

from npgpt.generation.attention import attention_weights
from serving.test_completions import TOKENIZER, alone

pytest.importorskip("fastapi", reason="the server needs the extra serve")
TOKEN = "a-token-of-many-letters"
NASTY = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
IDS = "return shown.tokens.map((token) => token.id)"
STATUS, PROBLEM = "return find('status').textContent", "return find('problem').textContent"
FOCUSED = "return tokenView.elements.indexOf(document.activeElement)"


@pytest.fixture(scope="module")
def gate():
    """While it is closed, no token but a text's first is made."""
    found = threading.Event()
    found.set()
    return found


@pytest.fixture(scope="module")
def held_server(gate):
    engine = tiny_engine()
    step = engine.decoder.step
    engine.decoder.step = lambda *arguments: (gate.wait(20), step(*arguments))[1]
    with running(engine, replace(SETTINGS, name=f"tiny {NASTY}")) as server:
        yield server


@pytest.fixture
def page(browser, held_server):
    browser.open(f"{held_server.url}/")
    yield browser
    assert browser.messages() == []
    assert {url.rsplit("/", 1)[0] for url in browser.requests()} <= {f"{held_server.url}/playground"}


@pytest.fixture
def closed(gate):
    gate.clear()
    yield gate
    gate.set()


def until(browser, holds):
    deadline = time.monotonic() + 20
    while not browser.run(f"return {holds}"):
        assert time.monotonic() < deadline, browser.run("return document.body.innerText")
        time.sleep(0.01)


def fill(browser, **fields):
    """Write into fields as a hand does; True and False tick and untick."""
    script = """
        const [name, value] = arguments, field = find(name), is_box = typeof value === "boolean";
        if (is_box) field.checked = value; else field.value = value;
        for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));"""
    for name, value in fields.items():
        browser.run(script, name, value)


def generate(browser, prompt="Once", **fields):
    """Make a text to its end, with seed 5 unless told otherwise."""
    seed = fields.pop("seed", 5)
    fill(browser, prompt=prompt, new_seed=False, seed=seed, **{"max_tokens": 8, **fields})
    before = browser.run("return shown.id")
    browser.click("#go")
    until(browser, f"shown.id !== '{before}' && !running && isDrawn")


def settings(**others):
    return {"temperature": 0.8, "top_k": 50, **others}


def test_a_text_is_made_and_each_token_has_its_probability(page, held_server):
    generate(page)
    wanted = [*TOKENIZER.encode("Once"), *alone(held_server, "Once", 5, **settings())[1]]
    assert page.run(IDS) == [int(id) for id in wanted]
    assert page.run(STATUS).startswith("8 tokens, ")
    tokens = page.run("return tokenView.elements.map((element) => [element.className, element.title])")
    assert [name for name, _ in tokens[:4]] == ["token prompt"] * 4
    assert tokens[0][1] == '"O", of the prompt'
    assert tokens[1][1].startswith('"n", ')
    p = page.run("return shown.tokens.map((token) => token.logprob === null ? 1 : Math.exp(token.logprob))")
    for (name, title), chance in list(zip(tokens, p, strict=True))[4:]:
        band = next(i for i, low in enumerate((0.5, 0.2, 0.05, 0.01, 0)) if chance >= low)
        assert f"band-{band}" in name
        assert float(title.rsplit(", ", 1)[1].rstrip("%")) == pytest.approx(100 * chance, rel=0.06)
    assert "from 20%" in page.run("return find('legend').textContent")
    until(page, "find('prompt-size').textContent === '4 tokens of 64'")


def test_a_prompt_that_was_read_is_not_read_again(page, held_server, monkeypatch):
    asked, submit = [], held_server.engine.submit
    monkeypatch.setattr(held_server.engine, "submit", lambda *a: asked.append(a[0][0].prompt_logprobs) or submit(*a))
    generate(page)
    first = page.run("return shown.tokens")
    generate(page)
    assert page.run("return shown.tokens") == first
    assert asked == [10, None]
    generate(page, "On")
    assert asked == [10, None, 10]


def test_strategies_and_seeds(page, held_server):
    generate(page, temperature=1.5, top_k=3, top_p=0.9, seed=11)
    made = alone(held_server, "Once", 11, temperature=1.5, top_k=3, top_p=0.9)[1]
    assert page.run(IDS)[4:] == made.tolist()
    page.click("input[value=greedy]")
    visible = "return [...document.querySelectorAll('#settings input[type=number]')].filter((x) => x.checkVisibility())"
    assert page.run(f"{visible}.map((x) => x.id)") == ["max_tokens"]
    generate(page)
    assert page.run(IDS)[4:] == alone(held_server, "Once", 0, temperature=0)[1].tolist()
    page.click("input[value=sampling]")
    fill(page, new_seed=True)
    page.click("#go")
    until(page, "!running && isDrawn")
    seed = int(page.run("return find('seed').value"))
    assert page.run("return find('seed').readOnly")
    settings_now = {"temperature": 1.5, "top_k": 3, "top_p": 0.9}
    assert page.run(IDS)[4:] == alone(held_server, "Once", seed, **settings_now)[1].tolist()


def test_a_length_beyond_the_room_is_explained(page):
    generate(page, max_tokens=500)
    assert page.run("return shown.tokens.length") == 65
    assert "There was room for no more: the model sees 64 at once." in page.run(STATUS)
    page.click("#more")
    assert "go on from one before" in page.run(PROBLEM)
    assert page.run("return shown.tokens.length") == 65


def test_all_of_it_by_the_keyboard(page, held_server):
    page.press("Tab", *"Once")
    fill(page, new_seed=False, seed=5, max_tokens=8)
    page.press("Tab", "Enter")
    until(page, "shown.tokens.length === 12 && !running && isDrawn")
    for _ in range(20):
        page.press("Tab")
        if page.run(FOCUSED) >= 0:
            break
    assert page.run(FOCUSED) == 0
    page.press("End", "Left", "Left", "Right")
    assert page.run(FOCUSED) == 10
    page.press("Home", *["Right"] * 6, "Enter")
    assert not page.run("return panel.hidden")
    assert page.run("return tokenView.elements[6].ariaSelected") == "true"
    shown = page.run("return [...document.querySelectorAll('#alternatives button')].map((b) => b.textContent)")
    assert len(shown) >= 9
    assert all(text.endswith("%") for text in shown)
    page.press("Escape")
    assert page.run("return panel.hidden")
    assert page.run(FOCUSED) == 6
    page.press("Space", "Down", "Down")
    place = page.run("return [...document.querySelectorAll('#alternatives button')].indexOf(document.activeElement)")
    assert place == 2
    kept = page.run(IDS)[:6]
    other = page.run("return shown.tokens[6].likeliest[2].id")
    page.press("Enter")
    until(page, "shown.tokens.length === 15 && !running && isDrawn")
    wanted = alone(held_server, [*kept, other], 5, **settings())[1].tolist()
    assert page.run(IDS) == [*kept, other, *wanted]
    assert page.run(FOCUSED) == 6
    assert page.run("return tokenView.elements[6].title").endswith(", chosen by you")
    assert page.run("return [...document.querySelectorAll('[role=option][tabindex=\"0\"]')].length") == 1


def test_lines_are_gone_up_and_down(page):
    generate(page, "aaaa bbbb cccc dddd\n\neeee", max_tokens=0)
    page.run("focusToken(2)")
    page.press("Down")
    assert page.run(FOCUSED) == 20
    page.press("Down")
    assert page.run(FOCUSED) >= 21
    page.press("Up", "Up", "Up")
    assert page.run(FOCUSED) < 19


def test_a_click_shows_alternatives_and_the_panel_follows(page):
    generate(page)
    page.click("#tokens [role=option]:nth-child(7)")
    assert page.run("return find('panel-place').textContent").split(" · ")[1].startswith("token 7 of 12, id ")
    page.press("Right")
    assert "token 8 of 12" in page.run("return find('panel-place').textContent")
    page.click("#panel-before")
    assert "token 7 of 12" in page.run("return find('panel-place').textContent")
    total = page.run("return shown.tokens[6].likeliest.reduce((sum, other) => sum + Math.exp(other.logprob), 0)")
    assert 0 < total <= 1
    page.click("#tokens [role=option]:nth-child(1)")
    assert "Nothing stands before" in page.run("return find('panel-says').textContent")


def test_back_brings_the_text_before(page):
    generate(page)
    first = page.run(IDS)
    page.run("alternatives.take(5, shown.tokens[5].likeliest[1])")
    until(page, "shown.tokens.length === 14 && !running && isDrawn")
    second = page.run(IDS)
    fill(page, prompt="Another")
    page.run("history.back()")
    until(page, "shown.tokens.length === 12 && isDrawn")
    assert (page.run(IDS), page.run("return find('prompt').value")) == (first, "Once")
    assert page.run("return tokenView.elements.length") == 12
    page.run("history.forward()")
    until(page, "shown.tokens.length === 14")
    assert (page.run(IDS), page.run("return find('prompt').value")) == (second, "Another")
    page.run("history.go(-2)")
    until(page, "shown.tokens.length === 0")
    assert not page.run("return find('empty').hidden")


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_a_text_is_stopped_and_what_was_made_stays(page, held_server, closed, how):
    fill(page, prompt="Once")
    page.click("#go")
    until(page, "shown.tokens.length === 5 && isDrawn")
    assert page.run("return find('go').textContent") == "Stop"
    assert page.run(STATUS) == "Making the text."
    page.click("#go") if how == "button" else page.press("Escape")
    until(page, "!running")
    assert page.run(STATUS) == "Stopped after 1 token."
    assert page.run("return find('go').textContent") == "Generate"
    closed.set()
    deadline = time.monotonic() + 15
    while held_server.engine.state().running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_choice_while_a_text_is_made_ends_it(page, closed):
    fill(page, prompt="Once", max_tokens=8)
    page.click("#go")
    until(page, "shown.tokens.length === 5 && isDrawn")
    page.run("openAlternatives(4); alternatives.take(4, shown.tokens[4].likeliest[3])")
    closed.set()
    until(page, "shown.tokens.length === 13 && !running")
    page.run("history.back()")
    until(page, "shown.tokens.length === 5 && isDrawn")
    assert page.run(STATUS) == "Stopped after 1 token."


def test_attention_of_a_head_over_the_text(page, held_server):
    generate(page)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    weights = attention_weights(held_server.engine.decoder.model, page.run(IDS), 0)
    assert np.array(page.run("return [...attention.weights]")).reshape(2, 12, 12) == pytest.approx(weights, abs=1e-6)
    page.click("#heads button:nth-child(2)")
    assert page.run("return find('heads').children[1].ariaPressed") == "true"
    page.run("focusToken(8)")
    page.press("Right")
    row = weights[1, 9]
    best = int(row.argmax())
    said = page.run("return find('looks').textContent")
    assert "(10) looks at " in said
    assert f"({best + 1}) {100 * row[best]:.0f}%" in said
    marked = page.run(
        "return tokenView.elements.map((element) => [...element.classList].find((c) => /^look-/.test(c)))"
    )
    bands = [next(i for i, low in enumerate((0.5, 0.2, 0.05, 0.01, 0)) if p >= low) for p in row[:10]]
    assert marked == [*(f"look-{band}" for band in bands), None, None]
    assert page.run("return tokenView.elements[9].classList.contains('looking')")
    page.press("Enter")
    assert page.run("return panel.hidden")
    page.click("input[value=probability]")
    assert page.run("return document.querySelectorAll('[class*=look-]').length") == 0


def test_the_map_is_painted_and_says_what_is_under_the_pointer(page):
    generate(page)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    colour = """
        const { margin, cell } = attention.place, scale = mapCanvas.width / mapCanvas.getBoundingClientRect().width;
        const at = (i) => Math.round((margin + cell * (i + .5)) * scale);
        const copy = new OffscreenCanvas(1, 1).getContext("2d");
        copy.drawImage(mapCanvas, -at(arguments[1]), -at(arguments[0]));
        return [...copy.getImageData(0, 0, 1, 1).data];"""
    first, later = page.run(colour, 0, 0), page.run(colour, 3, 9)
    assert first[:3] == [0x1F, 0x56, 0xB8]  # the first token looks at itself alone
    assert later[3] == 0
    page.dark(True)
    deadline = time.monotonic() + 15
    while page.run(colour, 0, 0)[:3] != [0x8A, 0xB4, 0xFA]:
        assert time.monotonic() < deadline
    point = """
        const { margin, cell } = attention.place, box = mapCanvas.getBoundingClientRect();
        mapCanvas.dispatchEvent(new PointerEvent("pointermove", {
          clientX: box.left + margin + cell * 1.5, clientY: box.top + margin + cell * 4.5 }));
        return find("looks").textContent;"""
    assert "(5) looks at " in page.run(point)
    assert "(2) " in page.run("return document.querySelector('#looks .pointed').textContent")


def test_attention_of_a_long_text_says_which_tokens_are_shown(page):
    generate(page, max_tokens=500)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    assert page.run("return find('attention-state').textContent").startswith("Of the first 64 of 65 tokens.")


def test_markup_is_text(page):
    generate(page, NASTY[:50], max_tokens=0)
    assert page.run("return listbox.textContent") == NASTY[:50]
    assert page.run("return document.title").endswith("playground")
    assert page.run("return document.querySelectorAll('main script, main img').length") == 0
    assert NASTY in page.run("return find('model').textContent")


def test_a_character_of_several_tokens_and_what_can_not_be_seen(page):
    text = "né字\n\t\x1b\u202e\u00a0 "
    generate(page, text, max_tokens=0)
    shown = page.run(
        "return tokenView.elements.map((element) => [element.textContent, element.classList.contains('part')])"
    )
    wanted = [["n", False], ["", True], ["é", False], ["", True], ["", True], ["字", False]]
    assert shown[:8] == [*wanted, ["\n", False], ["\t", False]]
    assert [text for text, _ in shown[8:]] == ["\\u{1b}", "", "", "\\u{202e}", "", "\\u{a0}", " "]
    assert page.run("return plainText(shown.tokens)") == text
    script = "return characters(arguments[0].map((bytes) => ({ bytes })), arguments[1])"
    part = [[{"text": "a"}], [{"byte": 0xE5}], [{"byte": 0x80}, {"text": "b"}]]
    assert page.run(script, ["61", "e5", "8062"], False) == part
    assert page.run(script, ["61e5", "ad"], True) == [[{"text": "a"}], []]
    assert page.run(script, ["61e5", "ad"], False) == [[{"text": "a"}, {"byte": 0xE5}], [{"byte": 0xAD}]]
    assert page.run(script, ["f09f", "9880eda080c0"], True) == [
        [],
        [{"text": "😀"}, *({"byte": byte} for byte in (0xED, 0xA0, 0x80, 0xC0))],
    ]


def test_an_empty_prompt_begins_a_document(page):
    generate(page, "")
    assert page.run("return tokenView.elements[0].textContent") == "end of text"
    assert page.run("return shown.tokens.length") == 9


def test_wrong_values_are_explained_at_their_field(page):
    for name, value in (("temperature", "0"), ("top_k", "1.5"), ("top_p", ""), ("seed", "-1"), ("max_tokens", "")):
        fill(page, new_seed=False, **{name: value})
        page.click("#go")
        assert page.run("return document.activeElement.id") == name
        assert page.run(f"return find('{name}-problem').textContent").startswith("It must be ")
        assert page.run(f"return find('{name}').ariaInvalid") == "true"
        fill(page, **{name: "1"})
        assert page.run(f"return find('{name}-problem').hidden")
    assert page.requests() == []


def test_what_the_server_refuses_is_explained_and_the_text_stays(browser, held_server, monkeypatch):
    from npgpt.serving.engine import Busy

    browser.open(f"{held_server.url}/")
    generate(browser)
    made = browser.run(IDS)
    fill(browser, prompt="x" * 70)
    browser.click("#go")
    until(browser, "!running")
    assert "more than the 64 tokens" in browser.run("return find('prompt-problem').textContent")
    fill(browser, prompt="x")

    def busy(*arguments):
        raise Busy(7)

    with monkeypatch.context() as patch:
        patch.setattr(held_server.engine, "submit", busy)
        browser.click("#go")
        until(browser, "!running")
    said = "Too many texts are waiting: come back later. Try again in 7 s."
    assert browser.run(PROBLEM) == said
    assert browser.run(IDS) == made
    browser.click("#go")
    until(browser, "!running && isDrawn")
    assert browser.run("return find('problem').hidden")
    assert all("the server responded with a status of" in message for message in browser.messages())


def test_a_text_that_fails_or_is_cut_keeps_what_was_made(browser):
    engine = tiny_engine()
    with running(engine, replace(SETTINGS, stop_seconds=0.1)) as server:
        browser.open(f"{server.url}/")
        step = engine.decoder.step

        def broken(*arguments):
            raise FloatingPointError("of the test")

        engine.decoder.step = broken
        fill(browser, prompt="Once")
        browser.click("#go")
        until(browser, "shown.tokens.length === 5 && !running && isDrawn")
        assert browser.run(PROBLEM) == "The text could not be finished: the server failed to make this text."
        assert browser.run(STATUS) == "1 token until then."
        engine.decoder.step = lambda *arguments: (server.stop.wait(20), time.sleep(0.3), step(*arguments))[2]
        browser.click("#go")
        until(browser, "running && running.entry && shown.tokens.length === 5")
        server.stop.set()
        until(browser, "!running && isDrawn")
        assert browser.run(PROBLEM) == "The text could not be finished: the server is stopping."
        server.thread.join(20)
    made = browser.run(IDS)
    browser.click("#go")
    until(browser, "!running")
    assert browser.run(PROBLEM) == "The server does not answer. Is npgpt.serve still running?"
    assert browser.run("return tokenView.tokens.map((token) => token.id)") == made != []


def test_a_token_is_asked_for_and_kept_for_the_tab(browser):
    with running(tiny_engine(), replace(SETTINGS, token=TOKEN)) as server:
        browser.open(f"{server.url}/")
        fill(browser, prompt="Once", max_tokens=4)
        browser.click("#go")
        until(browser, "find('key').open")
        browser.press("Escape")
        until(browser, "!running")
        assert browser.run(PROBLEM) == "This server needs a token."
        browser.click("#go")
        until(browser, "find('key').open")
        browser.press(*"short", "Enter")
        assert "at least 16" in browser.run("return find('key-problem').textContent")
        browser.press(*("-and-wrong" * 2), "Enter")
        until(browser, "find('key-problem').textContent === 'The server does not take this token.'")
        browser.press(*TOKEN, "Enter")
        until(browser, "shown.tokens.length === 8 && !running")
        browser.open(f"{server.url}/")
        fill(browser, prompt="Once", max_tokens=4)
        browser.click("#go")
        until(browser, "shown.tokens.length === 8 && !running")
        assert browser.run("return document.cookie + localStorage.length") == "0"
    browser.messages()


def test_nothing_runs_that_is_not_the_page_s_own(browser, held_server):
    browser.open(f"{held_server.url}/")
    browser.run("""
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken'";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<p id=x style='color: red' onclick='1'>");""")
    assert browser.run("return document.title").endswith("playground")
    assert browser.run("return getComputedStyle(find('x')).color !== 'rgb(255, 0, 0)'")
    assert "Content Security Policy" in "".join(browser.messages())


SMALL = """
const small = [...document.querySelectorAll("button, input, select, summary, .switch label, textarea")].filter(
  (x) => x.checkVisibility() && !x.matches("[type=radio], [type=checkbox]") && x.getBoundingClientRect().height < 40);
return small.map((x) => x.id || x.textContent);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_all_fits_and_can_be_touched(browser, held_server, dark):
    browser.open(f"{held_server.url}/", PHONE, dark)
    width = "return document.documentElement.scrollWidth"
    generate(browser, "A long prompt-without-a-space-in-it-which-must-wrap", max_tokens=12)
    browser.run("find('settings').open = true")
    assert (browser.run(width), browser.run(SMALL)) == (PHONE[0], [])
    browser.click("#tokens [role=option]:nth-child(55)")
    box = browser.run("const b = panel.getBoundingClientRect(); return [b.left, b.right, b.bottom, innerHeight]")
    assert box == [0, PHONE[0], box[3], box[3]]
    assert browser.run(
        "return tokenView.elements[54].getBoundingClientRect().bottom <= panel.getBoundingClientRect().top"
    )
    assert (browser.run(width), browser.run(SMALL)) == (PHONE[0], [])
    browser.click("#panel-close")
    browser.run("document.querySelector('input[value=attention]').click()")
    until(browser, "attention.weights !== null")
    assert (browser.run(width), browser.run(SMALL)) == (PHONE[0], [])
    assert browser.messages() == []


# The least contrast of a text with what is behind it, of all that is seen: [ratio, text]
CONTRAST = """
const light = (c) => c.map((x) => x / 255).map((x) => (x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4))
  .reduce((sum, x, i) => sum + [.2126, .7152, .0722][i] * x, 0);
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length === 3) return colour;
  }
}
const found = [...document.querySelectorAll("body *")].filter((x) => x.checkVisibility() && !x.disabled
  && [...x.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((x) => {
    const [a, b] = [numbers(getComputedStyle(x).color).slice(0, 3), behind(x)].map(light).sort((p, q) => q - p);
    return [(a + .05) / (b + .05), x.textContent];
  });
return found.sort((a, b) => a[0] - b[0])[0];
"""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_on_their_colours(browser, held_server, dark):
    browser.open(f"{held_server.url}/", dark=dark)
    generate(browser, max_tokens=30)
    fill(browser, temperature="9")
    browser.run("openAlternatives(7); for (const x of tokenView.elements) x.classList.remove('prompt')")
    browser.run("tokenView.elements.forEach((x, i) => { if (i < 5) x.className = `token band-${i}` })")
    assert (found := browser.run(CONTRAST))[0] >= 4.5, found
    browser.run("document.querySelector('input[value=attention]').click()")
    until(browser, "attention.weights !== null")
    assert (found := browser.run(CONTRAST))[0] >= 4.5, found
