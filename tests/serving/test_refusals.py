import json

import pytest
from helpers.serving import request

pytest.importorskip("fastapi", reason="the server needs the extra serve")
CHAT = "/v1/chat/completions"
WRONG = [
    ("temperature", -1), ("temperature", 2.1), ("temperature", "1"), ("temperature", True), ("temperature", [1]),
    ("max_tokens", -1), ("max_tokens", 2**31), ("max_tokens", 10**30), ("max_tokens", 1.5), ("max_tokens", "5"),
    ("top_p", 0), ("top_p", 1.1), ("n", 0), ("n", 129), ("n", True), ("seed", -1), ("seed", 2**63), ("seed", 0.5),
    ("stop", ""), ("stop", [1]), ("stop", {}), ("stop", ["x"] * 17), ("stop", "x" * 1001),
    ("logprobs", 21), ("logprobs", True), ("echo", 1), ("stream", "yes"), ("stream_options", {"include_usage": True}),
    ("presence_penalty", 3), ("frequency_penalty", -3), ("best_of", 2), ("suffix", "x"), ("store", True),
    ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}), ("logit_bias", {"257": 1}), ("logit_bias", [1]),
    ("top_k", -2), ("min_p", 2), ("typical_p", 0), ("repetition_penalty", 0), ("min_tokens", -1),
    ("prompt", []), ("prompt", 5), ("prompt", None), ("prompt", [[]]), ("prompt", [-1]), ("prompt", [257]),
    ("prompt", [10**30]), ("prompt", [1, "a"]), ("prompt", ["a", [1]]), ("prompt", [1.5]), ("prompt", [True]),
    ("prompt", ["a"] * 129), ("unheard_of", 1), ("tools", []), ("repetition_penalty", 1e-40), ("min_tokens", 2),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_names_its_field(ask, field, value):
    status, answer = ask(body={"prompt": "a", "max_tokens": 1, field: value})
    assert status == 400
    error = answer["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert field in error["message"]


BOUNDS = {
    "temperature": (0, 2), "top_p": (1e-9, 1), "top_k": (-1, 2**31 - 1), "min_p": (0, 1), "typical_p": (1e-9, 1),
    "repetition_penalty": (0.01, 1000), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2), "min_tokens": (0, 1),
    "max_tokens": (0, 64), "n": (1, 128), "best_of": (1,), "seed": (0, 2**63 - 1), "logprobs": (0, 20),
    "stop": ("x" * 1000, ["x"] * 16, []), "prompt": ([0], [256], ["a"] * 128),
    "logit_bias": ({"0": -100}, {"256": 100}),
}  # fmt: skip


@pytest.mark.parametrize("field", BOUNDS)
def test_the_bounds_themselves_are_taken(ask, field):
    for value in BOUNDS[field]:
        status, answer = ask(body={"prompt": "a", "max_tokens": 1, field: value})
        assert status == 200, (value, answer)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tools", [{}]), ("response_format", {"type": "json_object"}), ("modalities", ["audio"]), ("top_logprobs", 2),
     ("max_tokens", 0), ("functions", [{}]), ("reasoning_effort", "high"), ("tool_choice", "required")],
)  # fmt: skip
def test_what_chat_can_not_do_is_refused(ask, field, value):
    status, answer = ask(CHAT, body={"messages": [{"role": "user", "content": "a"}], field: value})
    assert (status, answer["error"]["param"]) == (400, field)


@pytest.mark.parametrize(("fields", "most"), [({}, 16), ({"max_tokens": 3}, 3), ({"prompt": "a" * 60}, 5)])
def test_more_tokens_than_are_made_can_not_be_the_least(ask, fields, most):
    """Also where the default, or what there is room for, is less."""
    assert ask(body={"prompt": "a", "min_tokens": most, **fields})[0] == 200
    status, answer = ask(body={"prompt": "a", "min_tokens": most + 1, **fields})
    assert (status, answer["error"]["param"]) == (400, "min_tokens")


def test_many_unknown_fields_are_one_error(ask):
    many = {f"field{i}": 1 for i in range(50_000)}
    assert ask(body={"prompt": "a", **many})[1]["error"]["message"] == "the body has more than 100 fields"
    assert len(ask(body={"prompt": "a", "x" * 10_000: 1})[1]["error"]["message"]) < 300
    message = {"role": "user", "content": "a", **many}
    status, answer = ask(CHAT, body={"messages": [message]})
    assert (status, answer["error"]["param"]) == (400, "messages[0]")


def test_defaults_and_what_changes_nothing_are_taken(ask):
    common = {"user": "me", "metadata": {"a": "b"}, "seed": None, "stop": None, "logit_bias": None, "n": None}
    assert ask(body={**common, "prompt": "a", "suffix": None, "best_of": 1, "max_tokens": 1})[0] == 200
    chat = {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "text"}, "tools": None}
    assert ask(CHAT, body={**common, **chat, "max_tokens": 1, "service_tier": "auto"})[0] == 200


def test_what_is_missing_is_named(ask):
    assert ask(body={})[1]["error"]["param"] == "prompt"
    assert ask(CHAT, body={})[1]["error"]["param"] == "messages"
    assert ask("/chat", body={})[1]["error"]["param"] == "message"


def test_no_more_texts_than_a_prompt_can_have_in_all(ask):
    status, answer = ask(prompt=["a"] * 65, n=2, max_tokens=1)
    assert (status, answer["error"]["param"]) == (400, "n")
    assert "128 at most" in answer["error"]["message"]


def test_another_model_is_not_found(ask):
    status, answer = ask(prompt="a", model="gpt-6\u001b[2J")
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"prompt": NaN}', b'{"prompt": "a", "temperature": Infinity}', b'{"prompt": "a", "prompt": "b"}',
     b'{"prompt": ' + b"[" * 100_000, b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b"[" + b"1," * 300_000 + b"1]",
     b'{"prompt": ' + b"1" * 5000 + b"}", b'{"prompt": "a", "model": "\\ud800"}',
     b"[]", b'"a"', b"null", b'{"prompt": "a", "temperature": 1e400}'],
)  # fmt: skip
def test_bodies_that_are_no_json_objects(server, body):
    status, _, answer = server.post("/v1/completions", body)
    assert status == 400
    assert json.loads(answer)["error"]["message"]


def test_a_body_of_too_many_values_is_refused(server):
    status, _, answer = server.post("/v1/completions", b"[" + b"1," * 250_000 + b"1]")
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["message"]) == (
        400, "request_too_large", "the body has more than 250,000 values",
    )  # fmt: skip


@pytest.mark.parametrize("headers", [{}, {"Content_Length": None, "Transfer_Encoding": "chunked"}])
def test_a_body_of_more_than_a_megabyte_is_refused(server, headers):
    body = b'{"prompt": "' + b"x" * 1_000_001 + b'"}'
    if headers:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    status, _, answer = server.post("/v1/completions", body, **headers)
    assert (status, json.loads(answer)["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("headers", [{}, {"Content_Length": None, "Transfer_Encoding": "chunked"}])
def test_a_body_of_just_a_megabyte_is_read(server, headers):
    body = b'{"prompt": "' + b"x" * (1_000_000 - 14) + b'"}'
    if headers:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    status, _, answer = server.post("/v1/completions", body, **headers)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "context_length_exceeded")


def test_other_paths_and_methods(server):
    for method, path, wanted in (("GET", "/nope", 404), ("GET", "/chat", 405), ("DELETE", "/v1/models", 405)):
        status, headers, body = server.send(request(method, path, Connection="close"))
        assert (status, json.loads(body)["error"]["type"]) == (wanted, "invalid_request_error")
        assert ("allow" in headers) == (status == 405)


def test_what_is_no_http_is_refused(server):
    for data in (
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 99,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 20_000,
    ):
        assert server.send(data)[0] == 400


def test_control_characters_are_escaped_in_the_log(server, capsys):
    server.send(request("GET", "/%1b[2J%0aGET%20/fine%e2%80%ae", Connection="close"))
    err = capsys.readouterr().err
    assert "/\\x1b[2J\\nGET /fine\\u202e" in err
    assert err.count("\n") == 1
    server.send(request("GET", "/" + "x" * 2000, Connection="close"))
    assert len(capsys.readouterr().err) < 300


def test_a_mistake_in_the_server_is_no_end_and_no_traceback_for_clients(server, ask, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("secret \x1b[2J")

    with monkeypatch.context() as patch:
        patch.setattr(server.engine, "submit", broken)
        status, answer = ask(prompt="a")
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "secret" not in str(answer)
    err = capsys.readouterr().err
    assert "secret \\x1b[2J" in err
    assert "\x1b" not in err
    assert ask(prompt="a", max_tokens=1)[0] == 200
