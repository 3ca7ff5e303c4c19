"""What the playground's page asks the server for."""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers.serving import SETTINGS, parse, read_all, request, running, tiny_engine

from npgpt.generation.attention import attention_weights
from serving.test_completions import TOKENIZER, alone, data_of
from serving.test_slow_clients import QUICK, eventually, is_idle, slow

pytest.importorskip("fastapi", reason="the server needs the extra serve")
GENERATE, ATTENTION, TOKENS = "/playground/generate", "/playground/attention", "/playground/tokens"
TOKEN = "a-token-of-many-letters"


def generated(server, **fields):
    """The chunks of a text."""
    return data_of(*server.post(GENERATE, fields))


def refused(server, path, **fields):
    """-> the status, and the field that is wrong"""
    status, _, body = server.post(path, fields)
    return status, json.loads(body)["error"]["param"]


def test_a_text_is_the_completion_with_the_same_settings(server):
    settings = {"temperature": 0.7, "top_k": 20, "top_p": 0.9}
    first, *made, last = generated(server, prompt="Once", max_tokens=8, seed=5, **settings)
    assert first["max_tokens"] == 8
    assert [token["shown"] for token in first["prompt"]] == ['"O"', '"n"', '"c"', '"e"']
    ids = [chunk["token"]["id"] for chunk in made]
    assert ids == alone(server, "Once", 5, **settings)[1].tolist()
    assert last == {"ended": "length"}


def test_tokens_come_with_bytes_and_alternatives(server):
    _, *made, _ = generated(server, prompt="né", max_tokens=6, seed=1, logit_bias={"195": 100})
    for token in (chunk["token"] for chunk in made):
        assert (token["id"], token["bytes"], token["shown"]) == (195, "c3", '"\\xc3"')
        logprobs = [other["logprob"] for other in token["likeliest"]]
        assert logprobs == sorted(logprobs, reverse=True)
        assert token["logprob"] < 0
        assert 0 < len(logprobs) <= 10
        assert all(other["id"] < TOKENIZER.vocab_size for other in token["likeliest"])


def test_a_text_is_continued_by_its_ids(server):
    ids = [*TOKENIZER.encode("On").tolist(), 195]  # half of a character
    first, *made, _ = generated(server, prompt=ids, max_tokens=5, seed=2)
    assert [token["id"] for token in first["prompt"]] == ids
    assert [chunk["token"]["id"] for chunk in made] == alone(server, ids, 2, 5)[1].tolist()


def test_the_prompt_with_its_probabilities(server, ask):
    first, second, last = generated(server, prompt="abc", max_tokens=0, score_prompt=True)
    assert last == {"ended": "length"}
    assert [token["logprob"] for token in first["prompt"]] == [None] * 3
    _, whole = ask(prompt="abc", max_tokens=0, logprobs=1, echo=True)
    assert [token["logprob"] for token in second["prompt"]] == whole["choices"][0]["logprobs"]["token_logprobs"]
    assert second["prompt"][0]["likeliest"] == []
    assert second["prompt"][1]["likeliest"]


def test_a_length_beyond_the_context_is_cut_to_the_room_there_is(server):
    size = server.engine.config.block_size
    first, *made, last = generated(server, prompt=[65] * (size - 2), max_tokens=1000, seed=1, logit_bias={"65": 100})
    assert (first["max_tokens"], len(made), last) == (3, 3, {"ended": "length"})
    assert refused(server, GENERATE, prompt=[65] * (size + 1), max_tokens=1) == (400, "prompt")


def test_the_token_that_ends_a_text_is_told(server):
    *_, made, last = generated(server, prompt="a", max_tokens=9, logit_bias={"256": 100})
    assert (made["token"]["shown"], last) == ('"<|endoftext|>"', {"ended": "stop"})


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", []), ("prompt", [257]), ("prompt", ["a"]), ("prompt", [True]), ("prompt", None), ("max_tokens", -1),
     ("max_tokens", 2**31), ("max_tokens", None), ("temperature", 3), ("temperature", "1"), ("top_k", -2), ("top_p", 0),
     ("seed", -1), ("n", 2), ("stream", True), ("score_prompt", 1), ("logit_bias", {"257": 1})],
)  # fmt: skip
def test_a_wrong_value_names_its_field(server, field, value):
    assert refused(server, GENERATE, **{"prompt": "a", "max_tokens": 1, field: value}) == (400, field)


def test_a_page_of_another_server_is_refused(server):
    """The ids that it knows may mean something else here."""
    page = server.send(request("GET", "/", Connection="close"))[2].decode()
    started = re.search(r'"started": ?(\d+)', page)[1]
    for sent, status in ((started, 200), ("1234567890", 409), ("x", 409)):
        assert server.post(TOKENS, {"prompt": [65]}, Npgpt_Started=sent)[0] == status


def test_a_client_that_leaves_stops_its_text():
    with running(slow(tiny_engine()), QUICK) as server:
        with server.connect() as connection:
            body = {"prompt": "a", "max_tokens": 60, "min_tokens": 60}
            connection.sendall(request("POST", GENERATE, body))
            eventually(lambda: server.engine.state().running)
        eventually(lambda: is_idle(server.engine))
        assert server.engine.state().made < 60


def test_attention_is_that_of_the_layer(server):
    status, headers, body = server.post(ATTENTION, {"prompt": [65, 66, 67], "layer": 0})
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    weights = np.frombuffer(body, "<f4").reshape(2, 3, 3)
    assert (weights == attention_weights(server.engine.decoder.model, [65, 66, 67], 0)).all()


def test_attention_that_can_not_be(server):
    assert refused(server, ATTENTION, prompt=[65], layer=1) == (400, "layer")
    assert refused(server, ATTENTION, prompt=[65], layer=-1) == (400, "layer")
    assert refused(server, ATTENTION, prompt=[65]) == (400, "layer")
    assert refused(server, ATTENTION, prompt=[999], layer=0) == (400, "prompt")


def test_attention_of_many_tokens_is_refused(monkeypatch, server):
    monkeypatch.setattr("npgpt.serving.playground.ATTENTION_TOKENS", 3)
    assert server.post(ATTENTION, {"prompt": [65] * 3, "layer": 0})[0] == 200
    assert refused(server, ATTENTION, prompt=[65] * 4, layer=0) == (400, "prompt")


@pytest.fixture
def held(server):
    """The server while its engine computes something else, until the event is set."""
    begun, go_on = threading.Event(), threading.Event()
    held = server.engine.run(lambda: (begun.set(), go_on.wait(20)))
    assert begun.wait(20)
    yield go_on
    go_on.set()
    held.result(20)


def test_so_many_pictures_may_wait_and_one_that_nobody_waits_for_is_not_computed(server, held, monkeypatch):
    computed = []
    weights = lambda *asked: computed.append(asked) or np.ones(1)  # noqa: E731
    monkeypatch.setattr("npgpt.serving.playground.attention_weights", weights)
    body = request("POST", ATTENTION, {"prompt": [65], "layer": 0}, Connection="close")
    waiting = server.engine._functions
    connections = [server.connect() for _ in range(4)]
    for number, connection in enumerate(connections, 1):
        connection.sendall(body)
        eventually(lambda number=number: len(waiting) == number)
    status, headers, answer = server.send(body)
    assert (status, headers["retry-after"], json.loads(answer)["error"]["code"]) == (503, "1", "server_busy")
    connections[0].close()
    eventually(lambda: any(future.cancelled() for _, future in waiting))
    held.set()
    for connection in connections[1:]:
        with connection:
            assert parse(read_all(connection))[0] == 200
    assert len(computed) == 3
    assert server.send(body)[0] == 200


def test_the_end_of_the_server_is_told_to_those_who_wait_for_a_picture():
    begun, go_on = threading.Event(), threading.Event()
    with running(tiny_engine(), QUICK) as server, server.connect() as connection:
        server.engine.run(lambda: (begun.set(), go_on.wait(20)))
        assert begun.wait(20)
        connection.sendall(request("POST", ATTENTION, {"prompt": [65], "layer": 0}))
        eventually(lambda: server.engine._functions)
        server.stop.set()
        eventually(lambda: server.engine._ends is not None and time.monotonic() > server.engine._ends)
        go_on.set()
        status, _, answer = parse(read_all(connection))
    assert (status, json.loads(answer)["error"]["code"]) == (503, "server_stopping")


def test_tokens(server):
    status, _, body = server.post(TOKENS, {"prompt": "é"})
    tokens = [{"id": 195, "bytes": "c3", "shown": '"\\xc3"'}, {"id": 169, "bytes": "a9", "shown": '"\\xa9"'}]
    assert (status, json.loads(body)) == (200, {"tokens": tokens})
    assert json.loads(server.post(TOKENS, {"prompt": [195, 169]})[2]) == {"tokens": tokens}
    assert refused(server, TOKENS, prompt="x" * 100) == (400, "prompt")


def test_the_page_runs_nothing_but_its_own_style_and_script(server):
    status, headers, body = server.send(request("GET", "/", Connection="close"))
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = body.decode()
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert (policy["connect-src"], policy["img-src"]) == ("'self'", "data:")
    for tag in ("style", "script"):
        (inside,) = re.findall(f"(?s)<{tag}>(.*?)</{tag}>", page)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'".lower()  # helpers.serving.parse makes small letters
    assert " style=" not in page
    assert not re.search(r"\son\w+=", page.split("<script")[0])
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_page_offers_no_more_tokens_than_the_context_has(server):
    page = server.send(request("GET", "/", Connection="close"))[2].decode()
    size = server.engine.config.block_size
    assert f'"max_tokens":{size}}}' in page
    assert f'"attention":{size},' in page


def test_with_a_token_the_page_is_open_and_its_data_are_not():
    with running(tiny_engine(), replace(SETTINGS, token=TOKEN)) as server:
        status, _, page = server.send(request("GET", "/", Connection="close"))
        assert status == 200
        assert TOKEN.encode() not in page
        for path, body in (
            (GENERATE, {"prompt": "a", "max_tokens": 1}),
            (ATTENTION, {"prompt": "a", "layer": 0}),
            (TOKENS, {"prompt": "a"}),
        ):
            assert server.post(path, body)[0] == 401
            assert server.post(path, body, Authorization=f"Bearer {TOKEN}")[0] == 200
