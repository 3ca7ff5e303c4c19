"""python -m npgpt.serve, from its flags to its exit code."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers.commands import QUICK, refused, train
from helpers.serving import parse, read_all, request
from helpers.texts import random_model

from npgpt.checkpoints import save
from npgpt.commandline import Parser
from npgpt.errors import ConfigError
from npgpt.serving.settings import TOKEN_VARIABLE, ServeSettings, bind, is_loopback, read_token
from npgpt.text.tokenizers import ByteTokenizer

TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "text.txt").write_text("The jury sat four days over a drowned pig. " * 9)
    return train(folder, "text.txt", *QUICK)[0]


def test_another_address_needs_a_token(monkeypatch, tmp_path):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    settings = ServeSettings(host="0.0.0.0")
    with pytest.raises(ConfigError, match="clients need a token"):
        read_token(settings)
    assert read_token(ServeSettings()) is None
    for token in (TOKEN, "x" * 16, "x" * 4096):
        assert read_token(replace(settings, token=token)) == token
    (tmp_path / "token").write_text(f"{TOKEN}\nwhat it is for\n")
    assert read_token(replace(settings, token_file=str(tmp_path / "token"))) == TOKEN
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8-sig")  # as some editors on Windows do
    assert read_token(replace(settings, token_file=str(tmp_path / "token"))) == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN[1:])
    assert read_token(settings) == TOKEN[1:]
    for wrong in ("x" * 15, "with a space in it, long", "ä" * 20, "", "x" * 4097):
        with pytest.raises(ConfigError, match="a token has"):
            read_token(replace(settings, token=wrong))
    with pytest.raises(ConfigError, match="give one"):
        read_token(replace(settings, token=TOKEN, token_file="token"))
    with pytest.raises(ConfigError, match="can't be read"):
        read_token(replace(settings, token_file=str(tmp_path / "none")))
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=r"^--token-file .*empty: a token has"):
        read_token(replace(settings, token_file=str(tmp_path / "empty")))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", ""])
def test_what_is_not_loopback(host):
    assert not is_loopback(host)


def test_a_port_in_use_is_a_mistake_with_advice():
    with bind("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="--port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="no such address"):
        bind("nowhere.invalid", 0)


@pytest.mark.parametrize("typed", ["::1", "[::1]"])
def test_an_ipv6_address_may_stand_in_brackets_as_in_a_url(typed):
    parser = Parser("serve", "")
    parser.add_flags(ServeSettings)
    settings = ServeSettings(**vars(parser.parse_args(["--host", typed])))
    assert settings.host == "::1"
    assert read_token(settings) is None  # a loopback address needs none


def test_wrong_flags(tmp_path):
    refused("serve", "--host", "0.0.0.0", cwd=tmp_path, words=["--token-file"])
    refused("serve", "--port", "70000", cwd=tmp_path, words=["--port"])
    refused("serve", "--rows", "0", cwd=tmp_path, words=["--rows"])


def test_without_the_extra_the_message_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("npgpt.serve.find_spec", lambda name: None)
    refused("serve", cwd=tmp_path, words=["pip install 'npgpt[serve]'"])


def test_no_model(tmp_path):
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    refused("serve", "--model", "nothing", "--port", "0", cwd=tmp_path)


def lines_until_ready(server):
    """What it says until clients can connect, and its port."""
    lines = ""
    for line in server.stderr:
        lines += line
        if line.startswith("Ctrl-C"):
            return lines, int(re.search(r"http://127.0.0.1:(\d+)/v1", lines)[1])
    raise AssertionError(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_a_run_until_a_signal_comes(run, number):
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    typed = [sys.executable, "-m", "npgpt.serve", "--model", str(run), "--port", "0", "--name", "mine\x1b[2J"]
    with subprocess.Popen(typed, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            lines, port = lines_until_ready(server)
            assert f"\n  http://127.0.0.1:{port}/    the playground, in a browser\n" in lines
            assert re.search(r"serving mine\\x1b\[2J, [\d,]+ parameters in f32, context 8", lines)
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                connection.sendall(
                    request("POST", "/v1/completions", {"prompt": "T", "max_tokens": 3}, Connection="close")
                )
                status, _, body = parse(read_all(connection))
            assert (status, json.loads(body)["model"]) == (200, "mine\x1b[2J")
            server.send_signal(number)
            out, err = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == 128 + number
    assert out == ""
    assert re.fullmatch(r'127\.0\.0\.1:\d+ "POST /v1/completions" 200 [\d.]+ s\n', err)


def test_a_chat_template_is_not_run_and_a_warning_says_so(tmp_path):
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    save(random_model(vocab_size=257, block_size=8), tmp_path / "folder", tokenizer=ByteTokenizer())
    (tmp_path / "folder" / "chat_template.jinja").write_text("{{ messages }}")
    typed = [sys.executable, "-m", "npgpt.serve", "--model", "folder", "--port", "0"]
    with subprocess.Popen(typed, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            lines, _ = lines_until_ready(server)
        finally:
            server.kill()
    assert lines.count("warning: npgpt doesn't run chat templates (folder/chat_template.jinja).\n") == 1


LONG_STEP = """
import time
from npgpt import serve
from npgpt.process import run
from npgpt.serving.batch import Batch

def step(batch, first=Batch.step, steps=[]):
    steps.append(None)
    return first(batch) if len(steps) < 3 else time.sleep(600)

Batch.step = step
run(serve.main)
"""


def test_a_second_ctrl_c_does_not_wait_for_what_is_computed(run):
    """A stream is under way, and the engine's thread in the middle of a long step."""
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    typed = [sys.executable, "-c", LONG_STEP, "--model", str(run), "--port", "0"]
    with subprocess.Popen(typed, stderr=subprocess.PIPE, text=True) as server:
        try:
            _, port = lines_until_ready(server)
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                connection.sendall(request("POST", "/v1/completions", {"prompt": "T", "max_tokens": 8, "stream": True}))
                assert connection.recv(2**16).startswith(b"HTTP/1.1 200")
                server.send_signal(signal.SIGINT)
                assert server.stderr.readline() == "stopping: texts have 5 s to end (again to stop at once)\n"
                server.send_signal(signal.SIGINT)
                _, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 128 + signal.SIGINT
    assert err == "stopped\n"
