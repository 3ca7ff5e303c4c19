import pytest

from npgpt.generation.dialogue import STOP
from npgpt.serving.requests import PromptRead
from serving.test_completions import events

pytest.importorskip("fastapi", reason="the server needs the extra serve")
HI = [{"role": "user", "content": "Hi"}]
URL = "/v1/chat/completions"


@pytest.fixture
def submitted(server, monkeypatch):
    """The engine's requests, and what it tells of them."""
    requests, told = [], []
    submit = server.engine.submit

    def noted(new, deliver):
        requests.extend(new)
        return submit(new, lambda event: (told.append(event), deliver(event)))

    monkeypatch.setattr(server.engine, "submit", noted)
    return requests, told


def test_an_answer(ask):
    status, answer = ask(URL, messages=HI, max_tokens=5, seed=3)
    assert status == 200
    assert answer["object"] == "chat.completion"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert answer["usage"]["prompt_tokens"] == len("Human: Hi\nAssistant:")
    again = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert ask(URL, messages=again, max_completion_tokens=5, seed=3)[1]["choices"] == answer["choices"]
    parts = [{"type": "text", "text": text} for text in ("H", "i")]
    lines = ask(URL, messages=[{"role": "user", "content": parts}], max_tokens=1)[1]
    assert lines["usage"]["prompt_tokens"] == len("Human: H\ni\nAssistant:")


def test_the_number_of_tokens_has_one_name(ask):
    for fields, param in (
        ({"max_completion_tokens": 99}, "max_completion_tokens"),
        ({"max_tokens": 99}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ):
        status, answer = ask(URL, messages=HI, **fields)
        assert (status, answer["error"]["param"]) == (400, param)


def test_it_is_the_completion_of_the_conversation_as_it_is_trained_on(ask):
    talk = [("system", "Be."), ("user", "A"), ("assistant", "B"), ("user", "C")]
    messages = [{"role": role, "content": content} for role, content in talk]
    _, answer = ask(URL, messages=messages, max_tokens=6, temperature=0)
    text = "System: Be.\nHuman: A\nAssistant: B\n\nHuman: C\nAssistant:"
    _, same = ask(prompt=text, max_tokens=6, temperature=0, stop="\nHuman:")
    assert answer["choices"][0]["message"]["content"] == same["choices"][0]["text"].strip()


def test_without_max_tokens_the_answer_has_the_room_that_is_left(server, ask):
    most = server.engine.config.block_size + 1
    prompt = ask(URL, messages=HI, max_tokens=1)[1]["usage"]["prompt_tokens"]
    _, answer = ask(URL, messages=HI, temperature=0, min_tokens=most - prompt)
    assert answer["usage"]["total_tokens"] == most
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stream_in_pieces_is_the_whole_answer(server, ask):
    fields = {"messages": HI, "max_tokens": 9, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
    _, whole = ask(URL, **fields)
    chunks = events(server, URL, **fields, stream_options={"include_usage": True})
    for choice in whole["choices"]:
        pieces = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert pieces[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(piece["delta"].get("content", "") for piece in pieces) == choice["message"]["content"]
        assert (pieces[-1]["delta"], pieces[-1]["finish_reason"]) == ({}, choice["finish_reason"])
        logprobs = [x for piece in pieces if piece["logprobs"] for x in piece["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]
        assert all(len(token["top_logprobs"]) == 2 for token in logprobs)
    assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    _, second = ask(URL, **{**fields, "n": 1, "seed": 4})
    assert second["choices"][0]["message"] == whole["choices"][1]["message"] != whole["choices"][0]["message"]


def test_a_clients_stop_strings_are_added_to_those_of_a_conversation(ask, submitted):
    ask(URL, messages=HI, max_tokens=1, stop=["x", "yz"])
    ((request,), _) = submitted
    assert request.stop == (*STOP, "x", "yz")


def test_the_prompts_tokens_count_once_for_all_answers(ask, submitted):
    system = {"role": "system", "content": "QX"}  # no other test begins so: the second answer finds it in the cache
    usage = ask(URL, messages=[system, *HI], max_tokens=1, n=2)[1]["usage"]
    first, second = sorted((event for event in submitted[1] if isinstance(event, PromptRead)), key=lambda e: e.text)
    assert first.reused < second.reused
    assert usage["prompt_tokens_details"]["cached_tokens"] == first.reused


def test_the_token_that_ends_an_answer_is_none_of_it(ask):
    _, answer = ask(URL, messages=HI, max_tokens=3, temperature=0, logit_bias={"256": 100}, logprobs=True)
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["content"] == []


def test_a_token_comes_with_its_bytes(ask):
    """One that is no whole character is written as \\xc3; what the tokenizer doesn't know has no bytes."""
    fields = {"messages": HI, "max_tokens": 1, "min_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
    found = []
    for id, token in ((65, "A"), (0xC3, "\\xc3")):
        _, answer = ask(URL, **fields, logit_bias={str(id): 100})
        (first,) = answer["choices"][0]["logprobs"]["content"]
        assert (first["token"], first["bytes"]) == (token, [id])
        found += first["top_logprobs"]
    assert all(len(choice["bytes"]) == (not choice["token"].startswith("<")) for choice in found)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "assistant", "content": "Hi"}], "messages"),
        ([*HI, *HI], "messages"),
        ([{"role": "tool", "content": "Hi"}], "messages[0].role"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "messages[0].content"),
        ([{"role": "user", "content": "\x1b[2J"}], "messages"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": "Hi", "name": "Bo"}], "messages[0].name"),
        ("Hi", "messages"),
        ([{"role": "user", "content": "x" * 100}], "messages"),
        ([*HI, {"role": "assistant", "content": "x" * 60}, *HI], "messages"),  # nothing is left out in silence
        ([{"role": "user", "content": "x" * 100_000}], "messages"),
    ],
)
def test_messages_that_can_not_be_answered(ask, messages, param):
    status, answer = ask(URL, messages=messages)
    assert (status, answer["error"]["param"]) == (400, param)


def test_a_message_that_a_client_hands_back_is_taken(ask):
    said = {"role": "assistant", "content": "Ho", "refusal": None, "tool_calls": None, "annotations": []}
    assert ask(URL, messages=[*HI, said, *HI], max_tokens=1)[0] == 200


def test_the_simple_chat_is_short(ask, submitted, monkeypatch):
    monkeypatch.setattr("npgpt.serving.chat.SIMPLE_TOKENS", 2)
    assert ask("/chat", message="Hi")[0] == 200
    ((request,), _) = submitted
    assert request.max_new_tokens == 2


def test_the_simple_chat_ends_at_a_newline(server, ask, submitted):
    from npgpt.serving.chat import SIMPLE_TOKENS

    status, answer = ask("/chat", message="Hi")
    assert (status, list(answer)) == (200, ["response"])
    assert "\n" not in answer["response"]
    ((request,), _) = submitted
    assert (request.sampling.temperature, request.sampling.top_k, request.stop[0]) == (0.8, 200, "\n")
    assert SIMPLE_TOKENS == 150  # as its documentation says
    assert request.max_new_tokens == min(150, server.engine.config.block_size + 1 - len(request.ids))
    assert ask("/chat", message="")[1]["error"]["param"] == "message"
    assert ask("/chat", message="x" * 100)[1]["error"]["code"] == "context_length_exceeded"
