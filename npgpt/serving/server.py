"""The server: uvicorn with our connections, which ends when it is told to, and cleanly."""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from math import ceil

import uvicorn
from fastapi import FastAPI

from npgpt.serving.connections import connections_with
from npgpt.serving.engine import Engine
from npgpt.serving.settings import ServeSettings

IDLE_SECONDS = 5  # an open connection without a request


class Server(uvicorn.Server):
    """Serves the app until ``stop()``. Then it takes nothing new, and texts have ``stop_seconds`` to end.

    A text that hasn't ended by then is cut: a stream gets an error as its last event, other clients the status 503.

    on_start    is called when clients can connect
    """

    def __init__(
        self,
        app: FastAPI,
        engine: Engine,
        settings: ServeSettings,
        stop: Callable[[], bool],
        on_start: Callable[[], None] = lambda: None,
    ):
        # What uvicorn has to say is in the access log already.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        super().__init__(
            uvicorn.Config(
                app, loop="asyncio", http=connections_with(settings), ws="none", lifespan="off", log_config=None,
                access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=ceil(settings.stop_seconds) + 2,
            )
        )  # fmt: skip
        self.engine, self.settings, self.stop, self.on_start = engine, settings, stop, on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """Signals are heard elsewhere: ``stop`` knows."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        seconds = self.settings.stop_seconds
        if self.engine.state().running:
            print(f"stopping: texts have {seconds:g} s to end (again to stop at once)", file=sys.stderr, flush=True)
        closing = threading.Thread(target=self.engine.close, args=(seconds,), daemon=True)
        closing.start()
        await super().shutdown(sockets)
        while closing.is_alive():
            await asyncio.sleep(0.02)
