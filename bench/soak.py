"""python -m bench.soak : a server under good, bad, slow and leaving clients for an hour, and its memory meanwhile.

The server is ``python -m npgpt.serve`` in a process of its own, with a tiny model: what could leak is the server, not
the model. Several clients ask it at once, each time in another way (CLIENTS). Every answer is checked. Lines on
stdout tell the seconds, the server's resident memory, and how many requests of each kind there have been.

It ends with exit code 1 if an answer is wrong, if the server ends or does not stop when it is told to, or if its memory
has grown by more than --growth megabytes: from the median of the second fifth of the time to that of the last.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from bench.commandline import Parser, run
from bench.processes import ProcessFailed
from npgpt.commandline import count, flag, number

CLIENT_SECONDS = 1.0  # the server's patience; a slow client costs the soak so long
TRAINING = ("--tokenizer", "byte", "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--context", "64")
TRAINING += ("--max-steps", "1", "--batch-size", "2", "--sample-every", "0", "--out", "run")
BAD = (
    b"", b"{", b'{"prompt": NaN}', b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": [999]}', b"[" * 9999,
    b'{"prompt": "a", "n": 1e9}', b'{"prompt": "' + b"x" * 500_000 + b'"}', b'{"prompt": "\\ud800"}',
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    seconds: float = flag(3600.0, number("X", 1), "how long", "soak")
    clients: int = flag(8, count(), "at once", "soak")
    growth: float = flag(16.0, number("MB", 0), "by which the memory may grow", "soak", metavar="MB")
    seed: int = flag(0, count(0), "of what clients do", "soak")


class Wrong(Exception):
    """An answer that should have been another one."""


def main() -> int:
    parser = Parser("soak", "A server under good, bad, slow and leaving clients, and its memory meanwhile.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text("The jury sat four days over a drowned pig. " * 50)
        _python(folder, "npgpt.train", "text.txt", *TRAINING)
        server = Server(folder)
        try:
            memory = soak(server, settings)
        finally:
            code = server.end()
    if code != 128 + signal.SIGTERM:
        raise ProcessFailed(f"the server ended with exit code {code}, not {128 + signal.SIGTERM}")
    fifth = max(1, len(memory) // 5)
    before, after = median(memory[fifth : 2 * fifth] or memory), median(memory[-fifth:])
    print(f"memory: {before:.1f} MB, at the end {after:.1f} MB; it may grow by {settings.growth:g} MB")
    return 0 if after - before <= settings.growth else 1


class Server:
    """The process."""

    def __init__(self, folder: str):
        self.process = _popen(folder, "npgpt.serve", "--model", "run", "--port", 0, "--client-seconds", CLIENT_SECONDS)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                self.address = ("127.0.0.1", int(found[1]))
                break
        else:
            raise ProcessFailed("the server didn't start")
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self):
        for _ in self.process.stderr:
            pass

    def memory(self) -> float:
        """Resident, in MB."""
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True)
        if not shown.stdout.strip():
            raise ProcessFailed("the server has ended")
        return int(shown.stdout) / 1024

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def send(self, data: bytes) -> bytes:
        """Bytes to the server on a connection of their own -> all that comes back"""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def end(self) -> int:
        """Tell it to stop -> its exit code"""
        self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise ProcessFailed("the server didn't stop within 30 s") from None


def soak(server: Server, settings: Settings) -> list[float]:
    """-> the server's memory in MB, at equal intervals. Raises ProcessFailed if an answer is wrong."""
    end, counts, wrong = monotonic() + settings.seconds, Counter(), []
    threads = [
        threading.Thread(target=_clients, args=(server, settings.seed + i, end, counts, wrong), daemon=True)
        for i in range(settings.clients)
    ]
    for thread in threads:
        thread.start()
    interval, memory, begin = settings.seconds / 100, [], monotonic()
    while monotonic() < end and not wrong:
        sleep(interval)
        memory.append(server.memory())
        done = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
        print(f"{monotonic() - begin:8.0f} s {memory[-1]:8.1f} MB  {done}", flush=True)
    for thread in threads:
        thread.join(90)
    if wrong:
        raise ProcessFailed(wrong[0])
    return memory


def _clients(server, seed, end, counts, wrong):
    """One client after another."""
    rng = random.Random(seed)
    while monotonic() < end and not wrong:
        client = rng.choices(list(CLIENTS), CLIENTS.values())[0]
        try:
            client(server, rng)
        except (Wrong, OSError) as error:
            wrong.append(f"{client.__name__}: {error!r}")
        counts[client.__name__] += 1


def whole(server: Server, rng: random.Random) -> None:
    """Ask for a text, or for an answer, and wait for it."""
    tokens = rng.randint(1, 30)
    prompt = "The jury sat"[: rng.randint(1, 12)]
    path, body = rng.choice(
        [
            ("/v1/completions", {"prompt": prompt, "logprobs": rng.randint(0, 3), "n": rng.randint(1, 3)}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}]}),
        ]
    )
    status, answer = _answer(server.send(_post(path, {**body, "max_tokens": tokens})))
    _demand(status == 200 and json.loads(answer)["usage"]["completion_tokens"] >= 1, answer)


def streamed(server: Server, rng: random.Random) -> None:
    """Read a text as it is made."""
    body = {"prompt": "The", "max_tokens": rng.randint(1, 30), "stream": True, "seed": rng.randint(0, 99)}
    status, answer = _answer(server.send(_post("/v1/completions", body)))
    _demand(status == 200 and b"data: [DONE]" in answer, answer)


def bad(server: Server, rng: random.Random) -> None:
    """Send what is wrong."""
    data = rng.choice([_post("/v1/completions", rng.choice(BAD)), b"no http\r\n\r\n", b"\x16\x03\x01" * 50])
    status, answer = _answer(server.send(data))
    _demand(status == 400 and json.loads(answer)["error"]["message"], answer)


def leaving(server: Server, rng: random.Random) -> None:
    """Leave before the end."""
    body = {"prompt": "The", "max_tokens": 60, "n": 4, "stream": rng.random() < 0.5}
    with server.connect() as connection:
        connection.sendall(_post("/v1/completions", body))
        sleep(rng.random() * 0.05)


def slow(server: Server, rng: random.Random) -> None:
    """Send a request that doesn't end; the server must end the connection."""
    data = _post("/v1/completions", {"prompt": "The"})
    with server.connect() as connection:
        connection.sendall(data[: rng.randint(0, len(data) - 1)])
        status, answer = _answer(read_all(connection))
    _demand(status == 408, answer)


CLIENTS = {whole: 6, streamed: 4, bad: 4, leaving: 3, slow: 1}  # and how often each comes


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the connection is closed."""
    found = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(2**16):
            found += more
    return found


def _post(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def _answer(data):
    """-> status, body"""
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def _demand(holds, answer):
    if not holds:
        raise Wrong(answer[:300])


def _python(folder, module, *arguments):
    process = _popen(folder, module, *arguments)
    _, errors = process.communicate()
    if process.returncode:
        raise ProcessFailed(f"{module}: {errors}")


def _popen(folder, module, *arguments):
    typed = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return subprocess.Popen(
        typed, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    run(main)
