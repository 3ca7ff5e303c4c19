"""One line on stderr for each request, and for each mistake in npgpt itself."""

import asyncio
import sys
import traceback
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from npgpt.serving.errors import ApiError

SHOWN = 200  # characters of a path
CLIENT_LEFT = 499  # in the log; no status of HTTP's


def escaped(text: str) -> str:
    """A text without what a terminal would obey: control characters and the like are written as in Python.

    >>> print(escaped("/v1\\x1b[2J\\r\\nGET /"))
    /v1\\x1b[2J\\r\\nGET /
    """
    shown = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[:SHOWN])
    return "".join(shown) + "..." * (len(text) > SHOWN)


def log(client: str, request: str, status: int, seconds: float | None = None) -> None:
    """Write a line: who asked, for what, the answer's status, how long it took."""
    took = "" if seconds is None else f" {seconds:.3f} s"
    sys.stderr.write(f'{escaped(client)} "{escaped(request)}" {status}{took}\n')  # in one piece


class AccessLog:
    """Middleware: logs each request when it has been answered; whatever goes wrong becomes an answer here."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, begin = None, perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:  # the server stops, and the time for that is over
            if status is None:
                await ApiError(503, "the server is stopping").response()(scope, receive, noted)
        except Exception:
            for line in traceback.format_exc().splitlines():
                print(escaped(line), file=sys.stderr, flush=True)
            if status is None:
                await ApiError(500, "a mistake in the server; its operator finds it in the log").response()(
                    scope, receive, noted
                )
        client = ":".join(map(str, scope.get("client") or ("-",)))
        log(client, f"{scope['method']} {scope['path']}", status or CLIENT_LEFT, perf_counter() - begin)
