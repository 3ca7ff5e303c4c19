"""What the playground's page says when something is wrong; what has been made stays."""

import time
from dataclasses import replace

import pytest
from helpers.playground import IDS, PROBLEM, STATUS, fill, generate, until
from helpers.serving import SETTINGS, running, tiny_engine

pytest.importorskip("fastapi", reason="the server needs the extra serve")
TOKEN = "a-token-of-many-letters"


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
    said = browser.run("return sentence('prompt: the character X is unknown.')")
    assert said == "The character X is unknown."

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
        assert browser.run(PROBLEM) == "The text could not be finished. The server failed to make this text."
        assert browser.run(STATUS) == "1 token until then."
        engine.decoder.step = lambda *arguments: (server.stop.wait(20), time.sleep(0.3), step(*arguments))[2]
        browser.click("#go")
        until(browser, "running && running.entry && shown.tokens.length === 5")
        server.stop.set()
        until(browser, "!running && isDrawn")
        assert browser.run(PROBLEM) == "The text could not be finished. The server is stopping."
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
        assert browser.run("return find('key').returnValue") == ""  # else to leave it would be a yes
        browser.press(*TOKEN, "Enter")
        until(browser, "shown.tokens.length === 8 && !running")
        browser.open(f"{server.url}/")
        fill(browser, prompt="Once", max_tokens=4)
        browser.click("#go")
        until(browser, "shown.tokens.length === 8 && !running")
        assert browser.run("return document.cookie + localStorage.length") == "0"
    browser.messages()
