import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.serving import request

from npgpt.config import GPTConfig
from npgpt.generation import StopTexts, generate, token_logprobs
from npgpt.serving.requests import PromptRead
from npgpt.tensor import no_grad
from npgpt.text.tokenizers import ByteTokenizer, GPT2Tokenizer

pytest.importorskip("fastapi", reason="the server needs the extra serve")
from npgpt.serving.errors import ApiError
from npgpt.serving.served import Served

BIAS = {257: -np.inf, 258: -np.inf, 259: -np.inf}  # ids without a text
TOKENIZER = ByteTokenizer()


def alone(server, prompt, seed, n=8, **settings):
    """The text that generate makes of this prompt alone, with the API's defaults."""
    ids = [TOKENIZER.encode(prompt)] if isinstance(prompt, str) else [prompt]
    settings = {"temperature": 1.0, "top_k": 0, "logit_bias": BIAS, **settings}
    texts, end = StopTexts(TOKENIZER), [256]
    made = generate(server.engine.decoder, ids, n, seed=seed, stop_ids=end, callback=texts, **settings)
    return texts.take(0), made[0][len(ids[0]) :]


def events(server, path="/v1/completions", **fields):
    """The data of the events of a stream that is asked for, but for the last one: [DONE]"""
    return data_of(*server.post(path, {**fields, "stream": True}))


def data_of(status, headers, body):
    """The data of the events of an answer, but for the last one: [DONE]"""
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in unchunked(body).split("\n\n")]
    assert lines[-2:] == ["[DONE]", ""]
    return [json.loads(line) for line in lines[:-2]]


def unchunked(body):
    text = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        text, body = text + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return text.decode()


def test_each_text_is_what_generate_makes_of_it_alone(server, ask):
    status, answer = ask(prompt=["Once", "No"], max_tokens=8, seed=5, n=2, temperature=0.7)
    assert status == 200
    wanted = [alone(server, prompt, seed, temperature=0.7)[0] for prompt in ("Once", "No") for seed in (5, 6)]
    assert [choice["text"] for choice in answer["choices"]] == wanted
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tiny"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 32, 38)


@pytest.mark.parametrize("prompt", [[79, 110], [[79, 110], [80]], "On", ["On", "P"]])
def test_prompts_are_texts_or_ids(server, ask, prompt):
    status, answer = ask(prompt=prompt, max_tokens=4, temperature=0)
    assert status == 200
    assert answer["choices"][0]["text"] == alone(server, "On", 0, 4, temperature=0)[0]


def test_settings_reach_the_choice_of_the_token(server, ask):
    settings = {"top_k": 9, "top_p": 0.9, "min_p": 0.2, "typical_p": 0.6, "repetition_penalty": 1.5}
    settings |= {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    bias = {65: 2.5, 256: 2.5}
    _, answer = ask(prompt="abc", max_tokens=16, seed=5, logit_bias=bias, min_tokens=16, **settings)
    settings |= {"logit_bias": {**BIAS, **bias}, "min_new_tokens": 16}
    wanted, _ = alone(server, "abc", 5, 16, **settings)
    assert answer["choices"][0]["text"] == wanted
    for name in settings:  # each of them makes a difference
        assert alone(server, "abc", 5, 16, **{k: x for k, x in settings.items() if k != name})[0] != wanted, name


def test_an_end_of_text_in_a_prompt_is_plain_text(ask):
    _, answer = ask(prompt="<|endoftext|>", max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == len("<|endoftext|>")


def test_the_text_of_a_stop_string_is_left_out(server, ask):
    text, _ = alone(server, "Once", 5, 30, temperature=0.7)
    _, answer = ask(prompt="Once", max_tokens=30, seed=5, temperature=0.7, stop=[text[3], "never there"])
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(text[3])], "stop")


def test_no_stop_string_ends_a_text_before_min_tokens(server, ask):
    text, _ = alone(server, "Once", 5, 30, temperature=0.7)
    stop = {"stop": list(set(text))[:4], "max_tokens": 30, "seed": 5, "temperature": 0.7}
    _, early = ask(prompt="Once", **stop)
    _, late = ask(prompt="Once", min_tokens=20, **stop)
    assert early["usage"]["completion_tokens"] < 20 <= late["usage"]["completion_tokens"]


def test_a_stream_in_pieces_is_the_whole_text(server, ask):
    fields = {"prompt": ["Once", "No"], "max_tokens": 8, "seed": 5, "n": 2, "logprobs": 1, "echo": True}
    _, whole = ask(**fields)
    chunks = events(server, **fields, stream_options={"include_usage": True})
    for choice in whole["choices"]:
        pieces = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            assert [x for piece in pieces if piece["logprobs"] for x in piece["logprobs"][name]] == values
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


@pytest.mark.parametrize(
    ("data", "text", "offsets"),
    [
        (b"v\xecfg", "v\ufffdfg", [0, 1, 2, 3]),
        (b"\xf0\x9f\x98a", "\ufffda", [0, 0, 0, 1]),
        ("né€".encode(), "né€", [0, 1, 1, 2, 2, 2]),
        (b"\xe2\xe2\x82\xac", "\ufffd€", [0, 1, 1, 1]),
    ],
)
def test_offsets_where_a_character_is_incomplete(ask, data, text, offsets):
    _, answer = ask(prompt=list(data), max_tokens=0, echo=True, logprobs=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["logprobs"]["text_offset"]) == (text, offsets)


def test_a_text_begins_where_its_prompt_ends_also_within_a_character(ask):
    _, answer = ask(prompt=[0xE2], max_tokens=1, echo=True, logprobs=0, logit_bias={"97": 100})
    choice = answer["choices"][0]
    assert (choice["text"], choice["logprobs"]["text_offset"]) == ("\ufffda", [0, 1])


def test_echo_has_the_logprobs_of_the_prompt(server, ask):
    prompt = "The né"
    _, answer = ask(prompt=prompt, max_tokens=1, logprobs=2, echo=True, temperature=0)
    choice, ids = answer["choices"][0], TOKENIZER.encode(prompt).tolist()
    found = choice["logprobs"]
    assert choice["text"].startswith(prompt)
    assert found["tokens"][:7] == ["T", "h", "e", " ", "n", "bytes:\\xc3", "bytes:\\xa9"]
    assert found["text_offset"][:8] == [0, 1, 2, 3, 4, 5, 5, 6]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    with no_grad():
        logits = server.engine.decoder.model.logits(server.engine.decoder.model.hidden_states(np.array([ids]))).data[0]
    for i in range(1, len(ids)):
        wanted = token_logprobs(logits[i - 1], ids[i], 2)
        assert found["token_logprobs"][i] == pytest.approx(wanted.logprob, abs=1e-4)
        assert found["token_logprobs"][i] == found["top_logprobs"][i][found["tokens"][i]]
        assert sorted(found["top_logprobs"][i].values())[-2:] == pytest.approx(
            sorted(p for _, p in wanted.top), abs=1e-4
        )
    assert len(found["tokens"]) == len(ids) + 1


def test_the_prompt_alone_can_be_scored(ask):
    status, answer = ask(prompt="abc", max_tokens=0, logprobs=1, echo=True)
    assert status == 200
    assert answer["choices"][0]["text"] == "abc"
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 3
    assert answer["usage"]["completion_tokens"] == 0


def test_a_prompts_tokens_count_once_for_all_of_its_texts(server, ask, monkeypatch):
    """And a prompt whose probabilities aren't asked for may be taken from the cache."""
    told, submit = [], server.engine.submit
    monkeypatch.setattr(
        server.engine, "submit", lambda asked, deliver: submit(asked, lambda e: (told.append(e), deliver(e)))
    )
    prompts = ["Quite a long beginning", "another one, as long as that"]  # so long that a second text waits for it
    usage = ask(prompt=prompts, n=2, max_tokens=1, logprobs=0)[1]["usage"]
    reused = {event.text: event.reused for event in told if isinstance(event, PromptRead)}
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (sum(map(len, prompts)), 4)
    assert (reused[1], reused[3]) == (len(prompts[0]) - 1, len(prompts[1]) - 1)
    assert usage["prompt_tokens_details"]["cached_tokens"] == reused[0] + reused[2]


def test_a_text_of_long_tokens_may_have_many_characters():
    served = Served(SimpleNamespace(tokenizer=GPT2Tokenizer(), config=GPTConfig(block_size=4)), "gpt2", 0)
    assert len(served.encode(" understanding" * 4, "prompt")) == 4
    with pytest.raises(ApiError, match="context length"):
        served.encode("a b c d e", "prompt")


def test_an_empty_prompt_begins_a_document(ask):
    status, answer = ask(prompt="", max_tokens=2)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, 1)


def test_the_whole_context_can_be_used_and_no_more(server, ask):
    size = server.engine.config.block_size
    assert ask(prompt=[65] * size, max_tokens=1)[0] == 200
    status, answer = ask(prompt=[65] * size, max_tokens=2)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert ask(prompt=[65] * (size + 1))[1]["error"]["param"] == "prompt"
    assert ask(prompt="x" * 900_000)[1]["error"]["code"] == "context_length_exceeded"
    assert len(ask(prompt=[65] * (size - 2))[1]["choices"]) == 1  # the default of max_tokens shrinks


def test_models(server):
    status, _, body = server.send(request("GET", "/v1/models", Connection="close"))
    model = json.loads(body)["data"][0]
    assert (status, model["id"], model["object"]) == (200, "tiny", "model")
    assert json.loads(server.send(request("GET", "/v1/models/tiny", Connection="close"))[2]) == model
    status, _, body = server.send(request("GET", "/v1/models/other", Connection="close"))
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")


def test_health(server):
    for path in ("/", "/health", "/v1/models"):
        assert server.send(request("HEAD", path, Connection="close"))[::2] == (200, b"")
    status, _, body = server.send(request("GET", "/health", Connection="close"))
    assert (status, json.loads(body)["status"]) == (200, "ok")
