"""Time limits of a connection, which uvicorn has not: a client that is slow or doesn't read is cut off.

A request must be whole, headers and body, ``client_seconds`` after its first byte (the first one of a connection: after
the connection was made). A client that is sent something must take it all, or at least 64 KiB, in each such time.
"""

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.h11_impl import H11Protocol

from npgpt.serving.access_log import log
from npgpt.serving.errors import ApiError
from npgpt.serving.settings import ServeSettings

LEAST_READ = 2**16  # bytes


class Connection(H11Protocol):
    """One client's connection. ``limits`` is set by ``connections_with``."""

    limits: ServeSettings
    _request_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # ``pause_writing`` says then that anything at all is not taken
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many clients: come back later", {"Retry-After": "1"})
        else:
            self._request_timer = self.loop.call_later(self.limits.client_seconds, self._request_is_late)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        cycle = self.cycle
        is_awaited = cycle is None or cycle.more_body or (cycle.response_complete and bool(self.conn.trailing_data[0]))
        if not is_awaited:
            self._end_request_timer()
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(self.limits.client_seconds, self._request_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_request_timer()
        self._end_reader_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_reader_timer()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._refuse(400, "this is not an HTTP request", {})

    def _end_request_timer(self):
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _end_reader_timer(self):
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _await_reader(self):
        waiting = self.transport.get_write_buffer_size()
        self._reader_timer = self.loop.call_later(self.limits.client_seconds, self._reader_is_late, waiting)

    def _reader_is_late(self, before):
        if self.transport.get_write_buffer_size() <= before - LEAST_READ:
            self._await_reader()
        else:
            self._log("reads too slowly", 408)
            self.transport.abort()

    def _request_is_late(self):
        self._request_timer = None
        self._refuse(408, "the request took too long", {})

    def _refuse(self, status, message, headers):
        """Answer, unless an answer has begun, and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_response(status, message, headers))
        self._log(message, status)
        self.transport.close()

    def _log(self, message, status):
        log(":".join(map(str, self.client or ("-",))), message, status)


def connections_with(limits: ServeSettings) -> type[Connection]:
    """The class of connections with these limits, for uvicorn's ``http``."""
    return type("Connection", (Connection,), {"limits": limits})


def _response(status: int, message: str, headers: dict[str, str]) -> bytes:
    """A whole response of HTTP/1.1."""
    body = json.dumps(ApiError(status, message).body()).encode()
    lines = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode() + body
