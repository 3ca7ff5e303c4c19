"""The playground's page when something happens in the middle of something else: another request, Back, Escape."""

import pytest
from helpers.playground import FOCUSED, STATUS, fill, generate, until

pytest.importorskip("fastapi", reason="the server needs the extra serve")
SILENCE = "window.fetch = () => new Promise(() => {})"  # a server that does not answer
PLACE = "return find('panel-place').textContent"


@pytest.fixture
def making(page, closed):
    """The page while a text has its first token, and the others are not made."""
    fill(page, prompt="Once", max_tokens=8)
    page.click("#go")
    until(page, "shown.tokens.length === 5 && isDrawn")
    return page


def test_the_text_that_is_waited_for_has_the_status(making):
    making.run(f"{SILENCE}; makeOfPrompt(); return new Promise((done) => setTimeout(done, 50))")
    assert making.run(STATUS) == "Waiting for the server."
    making.press("Escape")


def test_the_panel_follows_a_text_that_grows(making, closed):
    making.run("openAlternatives(4)")
    assert making.run("return find('panel-after').disabled")
    closed.set()
    until(making, "shown.tokens.length === 12 && !running && isDrawn")
    assert "token 5 of 12" in making.run(PLACE)
    assert not making.run("return find('panel-after').disabled")


def test_the_panel_shows_the_prompts_probabilities_when_they_come(making):
    said = making.run("""
        const read = shown.tokens.slice(0, 4);
        shown.tokens[1] = { ...read[1], logprob: null, likeliest: [] };
        openAlternatives(1);
        const before = find("alternatives").children.length;
        take({ prompt: read }, running, null, {});
        return [before, find("alternatives").children.length >= 9];""")
    assert said == [0, True]


def test_escape_closes_the_panel_that_has_the_focus_and_then_stops(making):
    making.run("openAlternatives(4, true)")
    making.press("Escape")
    assert making.run("return panel.hidden && running !== null")
    assert making.run(FOCUSED) == 4
    making.press("Escape")
    until(making, "!running")
    assert making.run(STATUS) == "Stopped after 1 token."


def test_the_focus_stays_in_the_text_when_back_brings_a_shorter_one(page):
    generate(page, "On", max_tokens=0)
    generate(page)
    page.run("focusToken(11)")
    page.run("history.back()")
    until(page, "shown.tokens.length === 2 && isDrawn")
    assert page.run(FOCUSED) == 1


def test_attention_over_one_text_is_not_shown_over_another(page):
    generate(page)
    generate(page, "On", max_tokens=0)
    page.click("input[value=attention]")
    until(page, "attention.weights !== null")
    page.run(f"{SILENCE}; history.back()")
    until(page, "shown.tokens.length === 12")
    assert page.run("return attention.weights === null && map.hidden && find('looks').hidden")
    assert page.run("return document.querySelectorAll('#tokens [class*=look]').length") == 0


def test_no_more_texts_are_kept_than_back_and_forward_reach(page):
    assert page.run("""
        const first = shown.id, next = shown.place + 1, before = entries.size;
        for (let i = 0; i < 3; i++) keep(newEntry([], next)); // Back, and another: three times
        const branches = entries.size - before;
        for (let i = 0; i < 90; i++) keep(newEntry([], next + i));
        return [branches, entries.size, entries.has(first)];""") == [1, 50, False]


def test_a_prompt_is_counted_again_after_a_server_that_was_gone(page):
    page.run("window.fetch = () => Promise.reject(new TypeError())")
    assert page.run("find('prompt').value = 'Once'; return countPrompt().then(() => promptSize.locked)") is False
    page.run("window.fetch = () => Promise.resolve(new Response('', { status: 401 }))")
    assert page.run("return countPrompt().then(() => promptSize.locked)") is True


def test_what_a_proxy_answers_is_explained(page):
    answer = "return problemOf(new Response('{\"detail\": 1}', { status: 502 })).then((problem) => problem.message)"
    assert page.run(answer) == "The server answers with the status 502."
    answer = "return events(new Response('<p>\\n\\n')).next().catch((problem) => problem.message)"
    assert page.run(answer) == "The answer can't be read: is it from npgpt.serve?"


def test_two_tokens_at_once_have_no_speed(page):
    told = "{ made: 2, room: 2, ended: null, wanted: 2, began: 1, now: 1 }"
    assert page.run(f"return ending({told})") == "2 tokens."
