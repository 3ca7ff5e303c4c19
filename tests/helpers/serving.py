"""A real server on a thread, with a tiny model, and clients that speak HTTP as badly as they like."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from helpers.models import with_random_parameters
from npgpt import GPT, GPTConfig
from npgpt.generation import Decoder
from npgpt.serving.settings import ServeSettings, bind
from npgpt.text.tokenizers import ByteTokenizer

TINY = GPTConfig(vocab_size=260, block_size=64, n_layer=1, n_head=2, n_embd=16)  # padded: the tokenizer has 257 ids
SETTINGS = ServeSettings(name="tiny", port=0)


def tiny_engine(rows: int = 4, queue: int = 256, block_size: int = TINY.block_size):
    """An engine that is not started; its texts are as long as they may be, mostly."""
    from npgpt.serving.engine import Engine

    _compile()  # else the first request waits for it, and a client gives up
    model = with_random_parameters(GPT(replace(TINY, block_size=block_size)))
    return Engine(Decoder(model), ByteTokenizer(), rows, queue)


@cache
def _compile() -> None:
    Decoder(GPT(TINY)).generate([[1, 2]], max_new_tokens=2)


@dataclass
class Running:
    """A server that runs."""

    host: str
    port: int
    engine: object
    stop: threading.Event
    thread: threading.Thread
    server: object

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connections(self) -> set:
        """Those that are open."""
        return set(self.server.server_state.connections)

    def connect(self) -> socket.socket:
        """A connection that gives up after 20 s."""
        return socket.create_connection((self.host, self.port), timeout=20)

    def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes on a connection of their own, and read what comes until it is closed."""
        with self.connect() as connection:
            connection.sendall(data)
            return parse(read_all(connection))

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.send(request("POST", path, body, Connection="close", **headers))


@contextlib.contextmanager
def running(engine, settings: ServeSettings = SETTINGS, send_buffer: int | None = None) -> Iterator[Running]:
    """A server on a thread of its own; at the end it stops.

    send_buffer     so many bytes of an answer the system takes that the client hasn't read
    """
    from npgpt.serving.app import make_app
    from npgpt.serving.server import Server

    stop, started = threading.Event(), threading.Event()
    with bind(settings.host, 0) as listening, engine:
        if send_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        server = Server(make_app(engine, settings), engine, settings, stop.is_set, started.set)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        host, port = listening.getsockname()[:2]
        thread.start()
        try:
            assert started.wait(20)
            yield Running(host, port, engine, stop, thread, server)
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def request(method: str, path: str, body: object = None, **headers: str) -> bytes:
    """A request of HTTP/1.1. ``body``: bytes, or an object that becomes JSON. A header that is None is left out."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection. Raises TimeoutError if it doesn't."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(2**16):
            found += more
    return found


def parse(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """-> status, headers in small letters, body"""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]) if first else 0, headers, body
