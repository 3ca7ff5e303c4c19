"""POST /v1/completions: continue texts."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from npgpt.generation import TokenLogprobs
from npgpt.serving.answers import CachedTokens, Completion, CompletionChoice, Finish, Logprobs, Usage
from npgpt.serving.body import StrictRoute
from npgpt.serving.errors import RESPONSES, WRONG, ApiError
from npgpt.serving.requests import Made, PromptRead, Request
from npgpt.serving.schema import MAX_TEXTS, CompletionRequest
from npgpt.serving.served import Served
from npgpt.serving.texts import Texts, respond, token_text
from npgpt.text.tokenizers import Tokenizer

DEFAULT_TOKENS = 16  # OpenAI's
_EVENT = {"description": "The data of each event is a JSON object; that of the last one is [DONE]."}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}


def router(served: Served) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/v1/completions", response_model=Completion, responses={**RESPONSES, **STREAM})
    async def completions(asked: CompletionRequest, request: HttpRequest) -> Response:
        """Continue texts, each ``n`` times."""
        work = _Work(served, asked)
        return await respond(work, served.submit(work.requests()), request, asked.stream)

    return routes


class _Work:
    """What one request asks for: P prompts and n texts for each, numbered prompt by prompt. Raises ApiError."""

    def __init__(self, served, asked):
        served.check_name(asked.model)
        self.served, self.asked, self.n = served, asked, asked.n or 1
        if asked.best_of not in (None, self.n):
            raise ApiError(400, "best_of can only be n: nothing is made that is not sent", "best_of", WRONG)
        check_stream_options(asked)
        if len(asked.prompt) * self.n > MAX_TEXTS:
            raise ApiError(400, f"n times the number of prompts can be {MAX_TEXTS} at most", "n", WRONG)
        several = len(asked.prompt) > 1
        self.prompts = [
            served.encode(prompt, f"prompt[{i}]" if several else "prompt") for i, prompt in enumerate(asked.prompt)
        ]
        self.header = served.header("cmpl")

    def requests(self) -> list[Request]:
        """What the engine is to make."""
        asked, served = self.asked, self.served
        return [
            Request(
                ids=ids,
                max_new_tokens=(new := served.room(ids, asked.max_tokens, DEFAULT_TOKENS)),
                sampling=served.sampling(asked, new),
                seed=None if asked.seed is None else asked.seed + i,
                stop_ids=served.engine.tokenizer.stop_ids,
                stop=asked.stop,
                logprobs=asked.logprobs,
                prompt_logprobs=asked.logprobs if asked.echo else None,
            )
            for ids in self.prompts
            for i in range(self.n)
        ]

    async def pieces(self, texts: Texts) -> AsyncIterator[CompletionChoice]:
        """What is new of one text or another; all pieces of a text, joined, are the whole one."""
        rows = []
        for prompt, ids in zip(self.asked.prompt, self.prompts, strict=True):
            tokenizer = self.served.engine.tokenizer
            text = prompt if isinstance(prompt, str) else tokenizer.decode(ids.tolist())
            rows += [_Text(len(rows) + i, text, ids, self.asked, tokenizer) for i in range(self.n)]
        async for event in texts.events():
            row = rows[event.text]
            piece = row.read(event) if isinstance(event, PromptRead) else row.made(event)
            if piece is not None:
                yield piece

    async def chunks(self, texts: Texts) -> AsyncIterator[Completion]:
        """The chunks of a stream."""
        wants_usage = bool(self.asked.stream_options and self.asked.stream_options.include_usage)
        header = {**self.header, "object": "text_completion", **({"usage": None} if wants_usage else {})}
        async for piece in self.pieces(texts):
            yield Completion(**header, choices=[piece])
        if wants_usage:
            yield Completion(**{**header, "usage": self.usage(texts)}, choices=[])

    async def whole(self, texts: Texts) -> Completion:
        """All of it at once."""
        pieces: list[list[CompletionChoice]] = [[] for _ in range(len(self.prompts) * self.n)]
        async for piece in self.pieces(texts):
            pieces[piece.index].append(piece)
        return Completion(**self.header, choices=[_joined(of_one) for of_one in pieces], usage=self.usage(texts))

    def usage(self, texts: Texts) -> Usage:
        """A prompt counts once, however many texts it has."""
        return usage(sum(map(len, self.prompts)), texts, range(0, len(self.prompts) * self.n, self.n))


class _Text:
    """One text: makes pieces of the engine's events."""

    def __init__(self, index: int, prompt: str, ids: np.ndarray, asked: CompletionRequest, tokenizer: Tokenizer):
        self.index, self.prompt, self.ids, self.asked, self.tokenizer = index, prompt, ids, asked, tokenizer
        self._decoder, self._offset = tokenizer.decoder(), 0

    def read(self, event: PromptRead) -> CompletionChoice | None:
        """The prompt itself, if it is to be echoed."""
        if not self.asked.echo:
            return None
        logprobs = None
        if self.asked.logprobs is not None:
            logprobs = _merged([self._logprobs(id, found) for id, found in zip(self.ids, event.logprobs, strict=True)])
        self._decoder, self._offset = self.tokenizer.decoder(), len(self.prompt)
        return CompletionChoice(index=self.index, text=self.prompt, logprobs=logprobs, finish_reason=None)

    def made(self, event: Made) -> CompletionChoice | None:
        """A new token; None if there is nothing to tell of it yet."""
        logprobs = None
        if self.asked.logprobs is not None and (token := event.token) is not None:
            assert token.logprob is not None
            logprobs = self._logprobs(token.id, TokenLogprobs(token.id, token.logprob, token.likeliest))
        if not event.piece and logprobs is None and event.ended is None:
            return None
        return CompletionChoice(
            index=self.index, text=event.piece, logprobs=logprobs, finish_reason=finish(event.ended)
        )

    def _logprobs(self, id, found):
        """Of one token; the first of a prompt has none."""
        piece, alone = self._decoder.decode(int(id)), self.tokenizer.decoder().decode(int(id))
        # What the tokens before had left of a character comes with this one, if it doesn't go on with it.
        offset = self._offset + (len(piece) - len(alone) if piece.endswith(alone) else 0)
        self._offset += len(piece)
        text = token_text(self.tokenizer, int(id))
        top = None
        if found is not None:
            top = {token_text(self.tokenizer, other): logprob for other, logprob in found.top}
            top.setdefault(text, found.logprob)
        logprob = None if found is None else found.logprob
        return Logprobs(tokens=[text], token_logprobs=[logprob], top_logprobs=[top], text_offset=[offset])


def _joined(pieces: list[CompletionChoice]) -> CompletionChoice:
    """The whole text of its pieces."""
    logprobs = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    return CompletionChoice(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        logprobs=_merged(logprobs) if logprobs else None,
        finish_reason=pieces[-1].finish_reason,
    )


def _merged(parts: list[Logprobs]) -> Logprobs:
    """Those of several tokens."""
    names = list(Logprobs.model_fields)
    return Logprobs(**{name: [x for part in parts for x in getattr(part, name)] for name in names})


def finish(ended: str | None) -> Finish | None:
    """Why a text has ended, as far as clients are told: other reasons are errors."""
    return "stop" if ended == "stop" else "length" if ended == "length" else None


def usage(prompt_tokens: int, texts: Texts, first: range) -> Usage:
    """The tokens of all texts. ``first``: the numbers of each prompt's first text."""
    reused = sum(texts.reused.get(i, 0) for i in first)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=texts.made,
        total_tokens=prompt_tokens + texts.made,
        prompt_tokens_details=CachedTokens(cached_tokens=reused),
    )


def check_stream_options(asked: Any) -> None:
    """Raise ApiError if they are there without a stream, as OpenAI does."""
    if asked.stream_options is not None and not asked.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, "stream_options", WRONG)
