"""From the engine's thread to a client: the texts of one request as they are made, streams, and clients that leave."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from npgpt.serving.access_log import CLIENT_LEFT
from npgpt.serving.engine import Engine
from npgpt.serving.errors import ApiError
from npgpt.serving.requests import Event, PromptRead, Request
from npgpt.text.tokenizers import Tokenizer

DONE = "data: [DONE]\n\n"
_T = TypeVar("_T")


class Texts:
    """The texts of one request, from when they are submitted. Errors are those of ``Engine.submit``.

    made    tokens so far, of all texts
    reused  {number of a text: so many ids of its prompt were in the cache}
    """

    def __init__(self, engine: Engine, requests: Sequence[Request]):
        loop, events = asyncio.get_running_loop(), asyncio.Queue()

        def deliver(event: Event) -> None:
            """On the engine's thread."""
            with suppress(RuntimeError):  # the loop is closed, and nobody waits for the event any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        self.made, self.reused = 0, {}
        self._events, self._left = events, len(requests)
        self._submission = engine.submit(requests, deliver)

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until all texts have ended. Raises ApiError if one ends because it can't go on."""
        while self._left:
            event = await self._events.get()
            if isinstance(event, PromptRead):
                self.reused[event.text] = event.reused
            else:
                self.made += event.token is not None
                self._left -= event.ended is not None
                if event.ended == "error":
                    raise ApiError(500, event.problem)
                if event.ended in ("shutdown", "cancelled"):
                    raise stopping()
            yield event

    def cancel(self) -> None:
        """End the texts that have not ended, within a token."""
        self._submission.cancel()


def stopping() -> ApiError:
    """The error that the server takes nothing new, or has cut a text."""
    return ApiError(503, "the server is stopping", None, "server_stopping", {"Retry-After": "10"})


def busy(message: str, retry_after: int) -> ApiError:
    """The error that so much is waiting already; in how many seconds to come back."""
    return ApiError(503, f"{message}: come back later", None, "server_busy", {"Retry-After": str(retry_after)})


async def while_connected(request: HttpRequest, work: Coroutine[Any, Any, _T], end: Callable[[], object]) -> _T:
    """Wait for ``work``, unless the client leaves before. ``end`` is called then, and when the work is done."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(CLIENT_LEFT, "the client has left")
        return working.result()
    finally:
        end()
        for task in (working, leaving):
            task.cancel()


class Work(Protocol):
    """What a request asks for, and how its answer is made of its texts."""

    def chunks(self, texts: Texts) -> AsyncIterator[BaseModel]:
        """The chunks of a stream."""

    async def whole(self, texts: Texts) -> BaseModel:
        """All of it at once."""


async def respond(work: Work, texts: Texts, request: HttpRequest, stream: bool | None) -> Response:
    """The answer: a stream of chunks, or the whole."""
    if stream:
        return EventStream(work.chunks(texts), texts.cancel)
    whole = await while_connected(request, work.whole(texts), texts.cancel)
    return JSONResponse(whole.model_dump())


async def _left(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Chunks as they are made, as server-sent events. When it is over, or the client has left, ``end`` is called."""

    def __init__(self, chunks: AsyncIterator[BaseModel], end: Callable[[], None]):
        # A proxy that buffered it (nginx) would not pass the text on as it is made.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_as_events(chunks), media_type="text/event-stream", headers=headers)
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


async def _as_events(chunks):
    """An error after the beginning of a stream is an event, too."""
    try:
        async for chunk in chunks:
            yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    except ApiError as error:
        yield f"data: {error.response().body.decode()}\n\n"
    yield DONE


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """A token as OpenAI writes it: its text, or its bytes if it is only a part of a character.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> token_text(ByteTokenizer(), 65), token_text(ByteTokenizer(), 195), token_text(ByteTokenizer(), 300)
    ('A', 'bytes:\\\\xc3', '<300>')
    """
    if id >= tokenizer.vocab_size:  # a model's vocabulary may be padded
        return f"<{id}>"
    data = tokenizer.token_bytes(id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
