"""The playground's page in a browser: texts, their tokens, alternatives and history, by mouse and by keyboard."""

import time

import pytest
from helpers.playground import FOCUSED, IDS, PROBLEM, STATUS, fill, generate, until

from serving.test_completions import TOKENIZER, alone

pytest.importorskip("fastapi", reason="the server needs the extra serve")


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


def test_a_text_goes_on_from_its_end(page, held_server):
    generate(page)
    ids = page.run(IDS)
    page.click("#more")
    until(page, "shown.tokens.length === 20 && !running && isDrawn")
    assert page.run(IDS) == [*ids, *alone(held_server, ids, 5, **settings())[1].tolist()]
    assert page.run("return plainText(shown.tokens.slice(0, 4))") == "Once"


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


def test_back_brings_the_prompt_that_a_text_was_made_of(page):
    for prompt in ("Once", "Another", "Third"):
        generate(page, prompt)
    for prompt in ("Another", "Once"):
        page.run("history.back()")
        until(page, f"plainText(shown.tokens).startsWith('{prompt}') && isDrawn")
        assert page.run("return find('prompt').value") == prompt


def test_a_page_of_another_server_asks_to_be_loaded_again(page):
    generate(page)
    until(page, "find('prompt-size').textContent !== ''")  # it is asked for a moment after the prompt was written
    page.run("DATA.started -= 1; find('more').click()")
    until(page, f"!running && ({PROBLEM.removeprefix('return ')}) !== ''")
    assert page.run(PROBLEM) == "This page is from before the server was started: load it again."
    assert page.run("return shown.tokens.length") == 12
    (message,) = page.messages()
    assert "409" in message


def test_texts_outlive_loading_the_page_anew(page):
    generate(page)
    first = page.run(IDS)
    generate(page, "Another")
    second, status = page.run(IDS), page.run(STATUS)
    page.run("window.isOld = true; location.reload()")
    until(page, "!window.isOld && document.readyState === 'complete' && isDrawn")
    assert (page.run(IDS), page.run("return find('prompt').value"), page.run(STATUS)) == (second, "Another", status)
    page.run("history.back()")
    until(page, f"isDrawn && shown.tokens.map((token) => token.id).join() === '{','.join(map(str, first))}'")
    url = page.run("return location.href")
    page.open("about:blank")
    page.open(url)
    assert page.run("return shown.tokens.length") == 0  # the page is visited anew
    page.run("history.go(-2)")
    until(
        page,
        f"!!window.find && isDrawn && shown.tokens.map((token) => token.id).join() === '{','.join(map(str, first))}'",
    )


def test_settings_outlive_loading_the_page_anew(page):
    fill(page, top_k=3, seed=11, max_tokens=5, new_seed=False)
    page.click("input[value=greedy]")
    page.run("window.isOld = true; location.reload()")
    until(page, "!window.isOld && document.readyState === 'complete' && isDrawn")
    assert page.run("return ['top_k', 'seed', 'max_tokens'].map((name) => find(name).value)") == ["3", "11", "5"]
    assert page.run("return [chosen('strategy'), find('new_seed').checked]") == ["greedy", False]
    assert not page.run("return find('top_k').checkVisibility()")
    url, defaults = page.run("return [location.href, DATA.defaults]")
    page.open("about:blank")
    page.open(url)
    assert page.run("return Number(find('top_k').value)") == defaults["top_k"]


def test_a_page_that_is_left_stops_its_text(page, closed):
    fill(page, prompt="Once", max_tokens=8)
    page.click("#go")
    until(page, "shown.tokens.length === 5 && isDrawn")
    page.run("storeTexts()")  # as when the page is hidden: it may never be shown again
    stored = page.run("return JSON.parse(sessionStorage.getItem(STORED)).texts.map((entry) => entry.status)")
    assert stored[-1] == "The page was closed while this text was made."
    page.run("window.isOld = true; location.reload()")
    until(page, "!window.isOld && document.readyState === 'complete' && isDrawn")
    assert page.run("return shown.tokens.length") == 5
    assert (page.run(STATUS), page.run(PROBLEM)) == ("Stopped after 1 token.", "")


def test_texts_of_another_server_are_not_shown(page):
    """Their tokens' ids may mean something else. The prompt is the reader's own, and stays."""
    generate(page, "Mine")
    page.run("""
        storeTexts();
        sessionStorage.setItem(STORED, sessionStorage.getItem(STORED).replace(JSON.stringify(SERVER), '"another"'));
        Storage.prototype.setItem = () => {};
        window.isOld = true; location.reload()""")
    until(page, "!window.isOld && document.readyState === 'complete' && isDrawn")
    assert page.run("return [shown.tokens.length, find('prompt').value]") == [0, "Mine"]
    page.run("history.back()")
    until(page, "find('status').textContent !== ''")
    assert page.run(STATUS) == "This text is gone, since the page was loaded anew."


def test_of_texts_that_are_too_much_to_store_the_one_on_the_page_is(page):
    generate(page)
    assert page.run("""
        entries.set("large", { ...newEntry([], 0), prompt: "x".repeat(2e7) });
        storeTexts();
        return JSON.parse(sessionStorage.getItem(STORED)).texts.map((entry) => entry.id === shown.id);""") == [True]
    page.run("entries.delete('large')")


def test_a_double_click_asks_once(page, closed):
    fill(page, prompt="Once", max_tokens=8)
    page.run("""
        for (const detail of [1, 2]) {
          find("go").dispatchEvent(new MouseEvent("click", { detail, bubbles: true, cancelable: true }));
        }""")
    closed.set()
    until(page, "shown.tokens.length === 12 && !running && isDrawn")


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


def test_an_empty_prompt_begins_a_document(page):
    generate(page, "")
    assert page.run("return tokenView.elements[0].textContent") == "end of text"
    assert page.run("return shown.tokens.length") == 9
