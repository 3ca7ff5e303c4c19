import json
from dataclasses import replace

import pytest
from helpers.serving import SETTINGS, request, running, tiny_engine

pytest.importorskip("fastapi", reason="the server needs the extra serve")
from npgpt.serving.guard import Guard

TOKEN = "a-token-of-many-letters"


def refusal(guard, method="GET", path="/v1/models", **headers):
    headers = {"host": "localhost", "content_type": "application/json", **headers}
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    found = guard.refusal({"type": "http", "method": method, "path": path, "headers": lines})
    return found and found.status_code


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "127.0.0.2", "[::1]:80", "LOCALHOST"])
def test_own_names(host):
    assert refusal(Guard(None, "127.0.0.1"), host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "evil.com:80",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "10.0.0.1",
        "[::2]",
        "[",
        ":80",
        "[::1]evil",
        "[localhost].evil.com",
        "localhost:evil.com",
        "localhost:80:80",
        "::1]",
    ],
)
def test_other_names_could_be_of_dns_rebinding(host):
    assert refusal(Guard(None, "127.0.0.1"), host=host) == 403


def test_at_another_address_all_addresses_and_its_own_names_are_let_in():
    guard = Guard(None, "0.0.0.0", ["box.lan"])
    assert refusal(guard, host="10.0.0.1:8000") is None
    assert refusal(guard, host="box.lan") is None
    assert refusal(Guard(None, "0.0.0.0", ["Box.lan"]), host="box.LAN") is None
    assert refusal(guard, host="evil.com") == 403


def test_origins():
    guard = Guard(None, "127.0.0.1")
    for own in ("http://localhost:8000", "https://localhost:8000"):  # the latter behind a proxy
        assert refusal(guard, host="localhost:8000", origin=own) is None
    for origin in ("http://evil.com", "http://localhost:9000", "null", "http://localhost:8000.evil.com"):
        assert refusal(guard, host="localhost:8000", origin=origin) == 403


def test_posts_are_json():
    guard = Guard(None, "127.0.0.1")
    assert refusal(guard, "POST", content_type="Application/JSON; charset=utf-8") is None
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
        assert refusal(guard, "POST", content_type=kind) == 415


@pytest.mark.parametrize("name", [b"host", b"origin", b"authorization", b"content-type"])
def test_a_header_twice_is_refused(name):
    lines = [(b"host", b"localhost"), (name, b"localhost"), (name, b"evil.com")]
    assert Guard(None, "127.0.0.1").refusal({"method": "GET", "path": "/", "headers": lines}).status_code == 400


def test_the_token():
    guard = Guard(None, "127.0.0.1", token=TOKEN)
    assert refusal(guard, authorization=f"Bearer {TOKEN}") is None
    assert refusal(guard, authorization=f"bearer {TOKEN}") is None
    for shown in ("", TOKEN, "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"):
        assert refusal(guard, authorization=shown) == 401
    assert refusal(guard, path="/health") is None
    assert refusal(guard, path="/") is None
    assert refusal(guard, "POST", path="/health") == 401


def test_a_server_with_a_token():
    with running(tiny_engine(), replace(SETTINGS, token=TOKEN)) as server:
        status, headers, body = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
        assert (status, headers["www-authenticate"]) == (401, "bearer")
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, **shown)[0] == 200
        assert server.send(request("GET", "/health", Connection="close"))[0] == 200


def test_posts_of_other_sites_reach_nothing(server):
    before = server.engine.state()
    body = {"prompt": "a", "max_tokens": 1}
    assert server.post("/v1/completions", body, Origin="http://evil.com")[0] == 403
    assert server.post("/v1/completions", body, Host="evil.com")[0] == 403
    assert server.post("/v1/completions", body, Content_Type="text/plain")[0] == 415
    assert server.engine.state() == before
