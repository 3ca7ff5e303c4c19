"""What clients get: the OpenAI API's objects. ``openai.types`` has the same fields."""

from typing import Literal

from pydantic import BaseModel

Finish = Literal["stop", "length"]


class CachedTokens(BaseModel):
    """Of the prompt's tokens, those that were not computed again."""

    cached_tokens: int


class Usage(BaseModel):
    """The number of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Logprobs(BaseModel):
    """Of each token: where its text begins, its log p (null: nothing stands before it), the likeliest in its place."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text, or a piece of it in a stream."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Finish | None = None


class Completion(BaseModel):
    """The answer of /v1/completions, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TokenChoice(BaseModel):
    """A token and its log p. ``bytes``: its UTF-8, for characters of several tokens."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenChoice):
    """A token of an answer, and the likeliest ones in its place."""

    top_logprobs: list[TokenChoice]


class ChatLogprobs(BaseModel):
    """Those of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    """The answer itself."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(BaseModel):
    """What a chunk adds to an answer. What is None is left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(BaseModel):
    """A chunk of the stream of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "npgpt"
    max_model_len: int


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """How busy the server is: texts that are made, and that wait; tokens made so far."""

    status: Literal["ok"] = "ok"
    model: str
    running: int
    waiting: int
