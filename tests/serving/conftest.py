"""Servers with a tiny model: one for the tests that only ask it something, one for those of the playground's page."""

import threading

import pytest


@pytest.fixture(scope="package")
def server():
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    pytest.importorskip("uvicorn", reason="the server needs the extra serve")
    from helpers.serving import running, tiny_engine

    with running(tiny_engine()) as running_server:
        yield running_server


@pytest.fixture(scope="package")
def ask(server):
    """ask(path, field=value ...) posts JSON -> status, the JSON that comes back"""
    import json

    def post(path="/v1/completions", body=None, **fields):
        status, _, answer = server.post(path, fields if body is None else body)
        return status, json.loads(answer)

    return post


@pytest.fixture(scope="package")
def gate():
    """While it is closed, no token but a text's first is made."""
    found = threading.Event()
    found.set()
    return found


@pytest.fixture(scope="package")
def held_server(gate):
    """A server for the browser, whose model has a name that no page can be proud of."""
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    pytest.importorskip("uvicorn", reason="the server needs the extra serve")
    from dataclasses import replace

    from helpers.playground import NASTY
    from helpers.serving import SETTINGS, running, tiny_engine

    engine = tiny_engine()
    step = engine.decoder.step
    engine.decoder.step = lambda *arguments: (gate.wait(20), step(*arguments))[1]
    with running(engine, replace(SETTINGS, name=f"tiny {NASTY}")) as server:
        yield server


@pytest.fixture
def page(browser, held_server):
    """The playground in a browser. At the end nothing was complained of, and nobody else was asked."""
    browser.open("about:blank")  # opening the page that is open would load it anew, with its text
    browser.open(f"{held_server.url}/")
    yield browser
    assert browser.messages() == []
    assert {url.rsplit("/", 1)[0] for url in browser.requests()} <= {f"{held_server.url}/playground"}


@pytest.fixture
def closed(gate):
    """The gate, closed."""
    gate.clear()
    yield gate
    gate.set()
