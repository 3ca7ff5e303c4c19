"""The servers that bench.serving measures: npgpt's and llama.cpp's, each a process that is started and ended."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep

from bench.machine import ROOT
from bench.processes import ProcessFailed

STARTING = 120  # seconds that a server may take until it answers
GGUF = {"f32": "F32", "bf16": "F16", "int8": "Q8_0", "int4": "Q4_0"}  # llama.cpp's weights beside npgpt's


def npgpt_command(folder: Path, weights: str, streams: int, threads: int, port: int) -> list[str]:
    flags = {"model": folder / "huggingface", "weights": weights, "port": port, "threads": threads}
    flags |= {"rows": streams, "name": "npgpt"}
    return [sys.executable, "-m", "npgpt.serve", *(f"--{name}={value}" for name, value in flags.items())]


def llama_command(program: str, folder: Path, streams: int, positions: int, threads: int, port: int) -> list[str]:
    """As many slots as streams, each with all positions. Prompts of the past are not kept beyond the slots' own."""
    flags = {"model": folder / "model.gguf", "host": "127.0.0.1", "port": port, "parallel": streams}
    flags |= {"ctx-size": streams * positions, "threads": threads, "threads-batch": threads, "cache-ram": 0}
    return [program, *(text for name, value in flags.items() for text in (f"--{name}", str(value)))]


@contextmanager
def running(command_at, log: Path) -> Iterator[int]:
    """A server, started with ``command_at(port)``, until the block ends -> its port, once it answers.

    Raises ProcessFailed, with the end of what it wrote, if it ends or does not answer.
    """
    port = _free_port()
    with open(log, "wb") as file:
        process = subprocess.Popen(command_at(port), cwd=ROOT, stdout=file, stderr=file)
    try:
        _wait_for(process, port, log)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _wait_for(process, port, log):
    deadline = monotonic() + STARTING
    while not _is_healthy(port):
        if process.poll() is not None or monotonic() > deadline:
            end = log.read_text(errors="replace")[-2000:]
            raise ProcessFailed(f"{os.path.basename(process.args[0])} does not answer; it wrote: {end}")
        sleep(0.1)


def _is_healthy(port):
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
