"""Clients that trickle, don't read, or leave; queues and connections that are full; the end of the server."""

import contextlib
import json
import socket
import time
from dataclasses import replace

import pytest
from helpers.serving import SETTINGS, parse, read_all, request, running, tiny_engine

pytest.importorskip("fastapi", reason="the server needs the extra serve")
QUICK = replace(SETTINGS, stop_seconds=0.2)
IMPATIENT = replace(QUICK, client_seconds=0.3)  # for clients that are to be cut off: a busy machine may cut off others
LONG = {"prompt": "a", "max_tokens": 60, "min_tokens": 60}


@pytest.fixture
def slow_engine():
    """One that takes 0.1 s for a token."""
    return slow(tiny_engine())


def slow(engine):
    step = engine.decoder.step

    def late(*arguments):
        time.sleep(0.1)
        return step(*arguments)

    engine.decoder.step = late
    return engine


def eventually(holds):
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_idle(engine):
    state = engine.state()
    return state.running == state.waiting == 0


@pytest.fixture(scope="module")
def impatient():
    with running(tiny_engine(), IMPATIENT) as server:
        yield server


BEGINNINGS = {
    "nothing": b"",
    "line": b"POST /v1/comple",
    "headers": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n",
    "body": request("POST", "/chat", b"{}" * 9)[:-3],
    "chunk": request("POST", "/chat", b"5\r\nabc", Content_Length=None, Transfer_Encoding="chunked"),
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_request_that_trickles_is_cut_off(impatient, beginning):
    with impatient.connect() as connection:
        connection.sendall(beginning)
        status, _, body = parse(read_all(connection))
    assert status == 408
    assert json.loads(body)["error"]["message"] == "the request took too long"


def test_every_byte_does_not_give_more_time(impatient):
    with impatient.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        for _ in range(750):  # 15 s
            try:
                connection.sendall(b"a")
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.02)
        else:
            pytest.fail("the connection is still open")


def test_a_second_request_has_the_same_time():
    with running(tiny_engine(), replace(QUICK, client_seconds=1.5)) as server, server.connect() as connection:
        connection.sendall(request("GET", "/health"))
        assert b"200 OK" in connection.recv(2**16)
        connection.sendall(b"GET /hea")
        assert b"408" in read_all(connection)


@pytest.mark.parametrize("asked", [{"n": 16, "stream": True}, {"n": 1}], ids=["a stream", "an answer of 50 KB"])
def test_a_client_that_does_not_read_is_cut_off(asked):
    settings = replace(QUICK, client_seconds=1.0)
    with running(tiny_engine(rows=16), settings, send_buffer=4096) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(20)
        connection.connect((server.host, server.port))
        connection.sendall(request("POST", "/v1/completions", {**LONG, "logprobs": 20, **asked}))
        eventually(lambda: server.connections())
        eventually(lambda: not server.connections())
        eventually(lambda: is_idle(server.engine))
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"[DONE]" not in answer
        assert b"usage" not in answer


def test_a_client_that_reads_a_few_bytes_at_a_time_is_cut_off():
    settings = replace(QUICK, client_seconds=0.5)
    with running(tiny_engine(rows=16), settings, send_buffer=4096) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(20)
        connection.connect((server.host, server.port))
        connection.sendall(request("POST", "/v1/completions", {**LONG, "logprobs": 20, "n": 8}))
        eventually(lambda: server.connections() and connection.recv(1))

        def is_cut_off():
            with contextlib.suppress(ConnectionResetError):
                connection.recv(100)
            return not server.connections()

        eventually(is_cut_off)  # in 15 s it reads a tenth of the answer


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_texts(slow_engine, stream):
    with running(slow_engine, QUICK) as server:
        with server.connect() as connection:
            connection.sendall(request("POST", "/v1/completions", {**LONG, "n": 2, "stream": stream}))
            eventually(lambda: server.engine.state().running)
        eventually(lambda: is_idle(server.engine))
        assert server.engine.state().made < 60


def test_a_client_that_leaves_is_a_line_in_the_log_and_no_mistake(slow_engine, capsys):
    with running(slow_engine, QUICK) as server:
        with server.connect() as connection:
            connection.sendall(request("POST", "/v1/completions", LONG))
            eventually(lambda: server.engine.state().running)
        eventually(lambda: is_idle(server.engine))
        eventually(lambda: not server.connections())
    said = capsys.readouterr().err
    assert '"POST /v1/completions" 499 ' in said
    assert "Traceback" not in said


@pytest.mark.parametrize("stream", [True, False])
def test_a_text_that_fails_is_told_as_an_error(stream):
    """And never as a text that ends there. The server goes on."""
    engine = tiny_engine()
    step = engine.decoder.step

    def fail(*arguments):
        engine.decoder.step = step
        raise MemoryError

    engine.decoder.step = fail
    with running(engine, QUICK) as server:
        status, _, body = server.post("/v1/completions", {**LONG, "stream": stream})
        assert status == (200 if stream else 500)
        assert b"the server failed to make this text" in body
        assert server.post("/v1/completions", LONG)[0] == 200


def test_of_a_client_that_leaves_in_time_nothing_is_said(capsys):
    """Its half of a request is no longer waited for."""
    with running(tiny_engine(), replace(QUICK, client_seconds=60)) as server:
        with server.connect() as client:
            client.sendall(BEGINNINGS["headers"])
            eventually(server.connections)
            (connection,) = server.connections()
            eventually(lambda: connection._request_timer)
            timer = connection._request_timer
        eventually(lambda: not server.connections())
        eventually(timer.cancelled)
    assert "408" not in capsys.readouterr().err


def test_more_texts_than_may_wait_are_refused():
    with running(slow(tiny_engine(rows=1, queue=1)), QUICK) as server:
        body = request("POST", "/v1/completions", LONG, Connection="close")
        with server.connect() as first, server.connect() as second:
            first.sendall(body)
            eventually(lambda: server.engine.state().running)
            second.sendall(body)
            eventually(lambda: server.engine.state().waiting)
            status, headers, answer = server.send(body)
            assert (status, json.loads(answer)["error"]["code"]) == (503, "server_busy")
            assert int(headers["retry-after"]) >= 1


def test_more_clients_than_there_may_be_are_refused():
    settings = replace(QUICK, connections=2, client_seconds=20)
    with running(tiny_engine(), settings) as server, server.connect(), server.connect() as second:
        eventually(lambda: len(server.connections()) == 2)
        status, headers, _ = server.send(request("GET", "/health"))
        assert (status, headers["retry-after"]) == (503, "1")
        second.sendall(request("GET", "/health", Connection="close"))
        assert parse(read_all(second))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_the_end_of_the_server_cuts_texts_and_tells_clients(slow_engine, stream, capsys):
    with running(slow_engine, QUICK) as server, server.connect() as connection:
        connection.sendall(request("POST", "/v1/completions", {**LONG, "stream": stream}))
        eventually(lambda: server.engine.state().running)
        server.stop.set()
        status, _, body = parse(read_all(connection))
    assert b"the server is stopping" in body
    assert status == (200 if stream else 503)
    assert (b"data: [DONE]" in body) == stream
    assert "stopping: texts have 0.2 s to end (again to stop at once)\n" in capsys.readouterr().err


def test_texts_that_end_soon_end_before_the_server(slow_engine):
    with running(slow_engine, replace(QUICK, stop_seconds=10)) as server, server.connect() as connection:
        connection.sendall(request("POST", "/v1/completions", {**LONG, "max_tokens": 20, "min_tokens": 20, "seed": 1}))
        eventually(lambda: server.engine.state().running)
        server.stop.set()
        status, _, body = parse(read_all(connection))
        assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, 20)
        server.thread.join(15)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
