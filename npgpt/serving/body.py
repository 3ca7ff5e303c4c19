"""The body of a request: 1 MB at most, and strict JSON."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from npgpt.checkpoints.shared.strict_json import items_at_most, parse_json
from npgpt.errors import CheckpointError
from npgpt.serving.errors import ApiError

MAX_ITEMS = 250_000  # values in a body: parsed, each takes up to 200 bytes


class LimitedBody:
    """Middleware: refuses a body of more than ``limit`` bytes, at its Content-Length or while it is read."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told[:20]) > self.limit:
            return await self._error().response()(scope, receive, send)
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit:
                raise self._error()
            return message

        await self.app(scope, limited, send)

    def _error(self):
        return ApiError(413, f"the request has more than {self.limit:,} bytes", None, "request_too_large")


class StrictRequest(Request):
    """A request whose JSON has no NaN, no key twice, no half of a surrogate pair, and isn't nested without end."""

    async def json(self) -> Any:
        """The body's JSON. Raises ApiError."""
        if not hasattr(self, "_json"):
            self._json = read_json(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its requests as ``StrictRequest``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


def read_json(data: bytes) -> Any:
    """Parse a body. Raises ApiError.

    >>> read_json(b'{"n": NaN}')
    Traceback (most recent call last):
    npgpt.serving.errors.ApiError: 400: the body: NaN is there, which JSON does not have
    """
    if items_at_most(data) > MAX_ITEMS:
        raise ApiError(400, f"the body has more than {MAX_ITEMS:,} values", None, "request_too_large")
    try:
        value = parse_json(data, "the body", max_items=MAX_ITEMS)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except CheckpointError as error:
        raise ApiError(400, str(error), None, "invalid_json") from None
    except UnicodeEncodeError:
        message = "the body: half of a surrogate pair is there, which is no character"
        raise ApiError(400, message, None, "invalid_json") from None
