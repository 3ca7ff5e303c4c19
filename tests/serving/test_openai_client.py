"""The official client, unchanged."""

import pytest

from serving.test_completions import alone

openai = pytest.importorskip("openai", reason="the official client is not installed")
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_completions(server, client):
    answer = client.completions.create(model="tiny", prompt=["Once"], max_tokens=8, seed=5, logprobs=1, echo=True)
    choice = answer.choices[0]
    assert choice.text == "Once" + alone(server, "Once", 5)[0]
    assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset) == 12
    assert answer.usage.total_tokens == 12


def test_a_stream_of_completions(server, client):
    chunks = [*client.completions.create(model="tiny", prompt="Once", max_tokens=8, seed=5, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone(server, "Once", 5)[0]
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat(client):
    options = {"model": "tiny", "messages": HI, "max_tokens": 9, "seed": 1}
    choice = client.chat.completions.create(**options, logprobs=True, top_logprobs=2).choices[0]
    assert choice.message.role == "assistant"
    assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    usage = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**options, stream=True, stream_options=usage)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == choice.message.content
    assert last.usage.completion_tokens <= 9
    again = client.chat.completions.create(
        model="tiny", messages=[*HI, choice.message.model_dump() | {"content": "Ho"}, *HI], max_tokens=1
    )
    assert again.choices[0].finish_reason


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "npgpt"


def test_errors_are_the_client_s_own(client):
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="tiny", prompt="a", max_tokens=-1)
    assert wrong.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="other", prompt="a")
    assert unknown.value.code == "model_not_found"


def test_the_asynchronous_client(server):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.completions.create(model="tiny", prompt="Once", max_tokens=8, seed=5, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(ask()) == alone(server, "Once", 5)[0]
