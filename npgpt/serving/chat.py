"""POST /v1/chat/completions and POST /chat: answer a message, in the form in which conversations are trained on."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from npgpt.errors import DataError, TokenizerError
from npgpt.generation import Sampling, Token
from npgpt.generation.dialogue import STOP, AnswerText, TooLong, make_prompt
from npgpt.serving.answers import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChunkChoice,
    Finish,
    TokenChoice,
    TokenLogprob,
)
from npgpt.serving.body import StrictRoute
from npgpt.serving.completions import STREAM, check_stream_options, finish, usage
from npgpt.serving.errors import RESPONSES, WRONG, ApiError
from npgpt.serving.requests import Made, Request
from npgpt.serving.schema import ChatRequest, SimpleChatAnswer, SimpleChatRequest
from npgpt.serving.served import Served
from npgpt.serving.texts import Texts, respond, token_text, while_connected

_ROLES = {"developer": "system"}  # OpenAI's newer name for it
SIMPLE_TOKENS = 150
SIMPLE_SAMPLING = Sampling(temperature=0.8, top_k=200)


def router(served: Served) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/v1/chat/completions", response_model=ChatCompletion, responses={**RESPONSES, **STREAM})
    async def chat_completions(asked: ChatRequest, request: HttpRequest) -> Response:
        """Answer the last message."""
        work = _Work(served, asked)
        return await respond(work, served.submit(work.requests()), request, asked.stream)

    @routes.post("/chat", response_model=SimpleChatAnswer, responses=RESPONSES)
    async def chat(asked: SimpleChatRequest, request: HttpRequest) -> Response:
        """Answer one message: up to 150 tokens, to the end of the line, temperature 0.8, top-k 200."""
        ids = prompt_ids(served, [("user", asked.message)], "message")
        texts = served.submit(
            [
                Request(
                    ids=ids,
                    max_new_tokens=served.room(ids, None, SIMPLE_TOKENS),
                    sampling=SIMPLE_SAMPLING,
                    stop_ids=served.engine.tokenizer.stop_ids,
                    stop=("\n", *STOP),
                )
            ]
        )
        answer = AnswerText()

        async def whole() -> SimpleChatAnswer:
            async for event in texts.events():
                if isinstance(event, Made):
                    answer.push(event.piece)
            return SimpleChatAnswer(response=answer.so_far)

        return JSONResponse((await while_connected(request, whole(), texts.cancel)).model_dump())

    return routes


def prompt_ids(served: Served, messages: list[tuple[str, str]], param: str) -> np.ndarray:
    """The ids (n,) of a conversation, all of it. Raises ApiError if it can't be one, or doesn't fit."""
    for _, content in messages:
        served.check_length(content, param)
    tokenizer = served.engine.tokenizer
    try:
        prompt = make_prompt(messages, tokenizer, served.block_size, max_new_tokens=1)
    except TooLong as error:
        raise served.too_long(error.tokens, 1, param) from None
    except (DataError, TokenizerError) as error:
        raise ApiError(400, f"{param}: {str(error).splitlines()[0]}", param, WRONG) from None
    if prompt.left_out:  # a client that sends a conversation wants an answer to all of it
        raise served.too_long(served.block_size + 1, 1, param)
    return prompt.ids


class _Work:
    """What one request asks for: ``n`` answers. Raises ApiError."""

    def __init__(self, served: Served, asked: ChatRequest):
        served.check_name(asked.model)
        check_stream_options(asked)
        self.served, self.asked, self.n = served, asked, asked.n or 1
        if asked.top_logprobs and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true", "top_logprobs", WRONG)
        if None not in (asked.max_tokens, asked.max_completion_tokens):
            raise ApiError(400, "max_tokens and max_completion_tokens mean the same: give one", "max_tokens", WRONG)
        messages = [(_ROLES.get(message.role, message.role), message.content) for message in asked.messages]
        self.ids = prompt_ids(served, messages, "messages")
        self.header = served.header("chatcmpl")

    def requests(self) -> list[Request]:
        """What the engine is to make."""
        asked = self.asked
        param = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
        new = self.served.room(self.ids, getattr(asked, param), self.served.block_size, param)
        request = Request(
            ids=self.ids,
            max_new_tokens=new,
            sampling=self.served.sampling(asked, new),
            stop_ids=self.served.engine.tokenizer.stop_ids,
            stop=(*STOP, *asked.stop),
            logprobs=asked.top_logprobs or 0 if asked.logprobs else None,
        )
        seeds = [None if asked.seed is None else asked.seed + i for i in range(self.n)]
        return [replace(request, seed=seed) for seed in seeds]

    async def pieces(self, texts: Texts) -> AsyncIterator[tuple[int, str, list[TokenLogprob], Finish | None]]:
        """(number of the answer, new text, the token's log p if it was asked for, why the answer ends)"""
        answers = [AnswerText() for _ in range(self.n)]
        async for event in texts.events():
            if isinstance(event, Made):
                shown, logprobs = answers[event.text].push(event.piece), []
                token = event.token
                if self.asked.logprobs and token is not None and token.id not in self.served.engine.tokenizer.stop_ids:
                    logprobs = [self._logprob(token)]
                if shown or logprobs or event.ended:
                    yield event.text, shown, logprobs, finish(event.ended)

    async def chunks(self, texts: Texts) -> AsyncIterator[ChatChunk]:
        """The chunks of a stream: who speaks, the pieces, why it ends."""
        wants_usage = bool(self.asked.stream_options and self.asked.stream_options.include_usage)
        header = {**self.header, "object": "chat.completion.chunk", **({"usage": None} if wants_usage else {})}

        def chunk(index, delta, logprobs=None, ended=None):
            choice = ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=ended)
            return ChatChunk(**header, choices=[choice])

        for index in range(self.n):
            yield chunk(index, ChatDelta(role="assistant", content=""))
        async for index, text, logprobs, ended in self.pieces(texts):
            if text or logprobs:
                found = ChatLogprobs(content=logprobs, refusal=None) if self.asked.logprobs else None
                yield chunk(index, ChatDelta(content=text), found)
            if ended:
                yield chunk(index, ChatDelta(), None, ended)
        if wants_usage:
            yield ChatChunk(**{**header, "usage": usage(len(self.ids), texts, range(1))}, choices=[])

    async def whole(self, texts: Texts) -> ChatCompletion:
        """All of it at once."""
        content, logprobs, ends = [""] * self.n, [[] for _ in range(self.n)], [finish("length")] * self.n
        async for index, text, found, ended in self.pieces(texts):
            content[index] += text
            logprobs[index] += found
            ends[index] = ended
        choices = [
            ChatChoice(
                index=i,
                message=ChatMessage(content=content[i]),
                logprobs=ChatLogprobs(content=logprobs[i]) if self.asked.logprobs else None,
                finish_reason=ends[i] or "length",
            )
            for i in range(self.n)
        ]
        return ChatCompletion(**self.header, choices=choices, usage=usage(len(self.ids), texts, range(1)))

    def _logprob(self, token: Token) -> TokenLogprob:
        likeliest = [self._choice(id, logprob) for id, logprob in token.likeliest]
        assert token.logprob is not None
        return TokenLogprob(**self._choice(token.id, token.logprob).model_dump(), top_logprobs=likeliest)

    def _choice(self, id, logprob):
        tokenizer = self.served.engine.tokenizer
        data = tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""
        text = token_text(tokenizer, id).removeprefix("bytes:")
        return TokenChoice(token=text, logprob=logprob, bytes=list(data))
