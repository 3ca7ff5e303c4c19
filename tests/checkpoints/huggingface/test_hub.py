"""Models by name: what is downloaded, from a hub on this machine, and what a hub may do wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from helpers.commands import process
from helpers.hub_models import NAME, REASON, assert_the_model, message, model_files, put_in_cache
from helpers.hub_server import COMMIT, Hub

from checkpoints.huggingface.test_config import TINY
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface.hub import find
from npgpt.checkpoints.huggingface.read import WEIGHTS
from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import ByteTokenizer

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.fixture
def server(cache, tmp_path, files, monkeypatch):
    """A hub that has the model, and nothing but it to be asked."""
    constants = pytest.importorskip("huggingface_hub.constants", reason=REASON)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None))
    with Hub() as hub:
        hub.repositories[NAME] = files
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def environment(server, cache, tmp_path):
    """For a process of its own."""
    ours = {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(tmp_path / "home")}
    ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
    return {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | ours


def find_at_last():
    """huggingface_hub goes on by itself after a cut, or (before 1.33) leaves that to the next try."""
    for _ in range(3):
        with suppress(CheckpointError):
            return find(NAME)
    return find(NAME)


def unfinished(cache: Path, files: dict[str, bytes]) -> Path:
    """The file in which the weights arrive."""
    digest = sha256(files["model.safetensors"]).hexdigest()
    return cache / f"models--{NAME.replace('/', '--')}" / "blobs" / f"{digest}.incomplete"


# The download


def test_a_download_and_then_the_cache(server, cache, files):
    files["chat_template.jinja"] = b"{{ messages }}"
    assert_the_model()
    small = ["config.json", "generation_config.json", "chat_template.jinja", "vocab.json"]
    assert server.asked() == [*small, "model.safetensors"]
    number = len(server.requests)
    snapshot = find(NAME)
    assert load(NAME).config.n_embd == TINY["n_embd"]
    assert len(server.requests) == number
    assert (snapshot.parent.name, snapshot.name) == ("snapshots", COMMIT)
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == {
        name: files[name] for name in server.asked()
    }
    assert not [path for path in cache.rglob("*") if path.name.endswith((".incomplete", "tmp"))]


def test_weights_are_on_the_disk_before_they_have_their_name(server, cache, files, monkeypatch):
    """Or a loss of power could leave a whole name and half a file, which is taken without another look."""
    calls, fsync, replace = [], os.fsync, os.replace
    partial = unfinished(cache, files)
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.fstat(fd).st_ino) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append((old, os.stat(old).st_ino)) or replace(old, new))
    find(NAME)
    at = next(i for i, call in enumerate(calls) if isinstance(call, tuple) and call[0] == partial)
    assert calls[at][1] in calls[:at]


@pytest.mark.parametrize("shards", [1, 3])
def test_shards(server, tmp_path, shards):
    server.repositories[NAME] = model_files(tmp_path, shards) | {"pytorch_model.bin": b"PK" * 4000}
    assert_the_model()
    assert "pytorch_model.bin" not in server.asked()
    assert len(server.large_requests()) == shards


def test_an_index_on_the_hub_that_names_other_folders(server, tmp_path, cache):
    files = model_files(tmp_path, shards=2)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"wte.weight": "../../secret"}}).encode()
    server.repositories[NAME] = files
    assert "weight_map: '../../secret' is not the name of a file beside it" in message()
    assert not [path for _, path, _ in server.requests if "secret" in path]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"wte.weight": "not-there"}}).encode()
    server.commit = COMMIT[::-1]
    assert f"{NAME} has no 'not-there' at {server.url}, which its index names" in message()


@pytest.mark.parametrize("index", [False, True])
def test_a_pickle_is_downloaded_only_if_there_is_nothing_else(server, files, index):
    del files["model.safetensors"]
    if index:
        files["pytorch_model-00001-of-00001.bin"] = files.pop("pytorch_model.bin")
        places = {"wte.weight": "pytorch_model-00001-of-00001.bin"}
        files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": places}).encode()
    snapshot = find(NAME)
    assert (
        snapshot / ("pytorch_model-00001-of-00001.bin" if index else "pytorch_model.bin")
    ).read_bytes() == b"PK" * 4000
    assert find(NAME) == snapshot


def test_a_token_goes_to_the_hub_and_no_further(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert_the_model()
    for _, path, headers in server.requests:
        sent = {name.lower(): value for name, value in headers.items()}.get("authorization")
        assert sent == (None if path.startswith("/storage/") else "Bearer hf_secret"), path


def test_a_newer_commit_takes_the_cache_only_when_it_is_there(server, cache, files):
    """What refs/main names stays complete; the old model is used until somebody deletes it."""
    old = find(NAME)
    (old / "model.safetensors").resolve().unlink()
    server.commit = COMMIT[::-1]
    server.stop_at = [3000] * 7
    message()
    server.stop_at.clear()
    assert (old.parents[1] / "refs" / "main").read_text() == COMMIT
    assert find(NAME).name == COMMIT[::-1]


# Downloads that are interrupted, or damaged


def test_a_connection_that_is_cut_is_made_again(server):
    server.stop_at = [3000, 5000]
    find_at_last()
    assert_the_model()
    assert [r is None for r in server.large_requests()] == [True, False, False]


def test_the_next_download_resumes_an_interrupted_one(server, cache, files):
    server.stop_at = [3000] * 7
    text = message()
    assert f"{NAME} can't be downloaded from {server.url} (" in text
    assert "try again, and it resumes" in text
    begun = unfinished(cache, files).stat().st_size
    assert 2000 <= begun <= 3000
    server.requests.clear()
    server.stop_at.clear()
    assert_the_model()
    assert server.large_requests() == [f"bytes={begun}-"]


def test_ctrl_c_and_then_the_same_command_resumes(server, tmp_path, cache, environment):
    """In a process, as it is typed; only that the file is written to in pieces of 1,000 bytes."""
    server.repositories[NAME] = files = model_files(tmp_path, config={**TINY, "n_embd": 48})
    partial = unfinished(cache, files)
    server.stop_at, server.then = [50_000], "wait"
    code = "import runpy, sys, huggingface_hub.constants\nhuggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000\n"
    code += f"sys.argv = ['info', '{NAME}']\nrunpy.run_module('npgpt.info', run_name='__main__')"
    with subprocess.Popen([sys.executable, "-c", code], **PIPES, env=environment) as running:
        until = time.monotonic() + 60
        while not partial.exists() or partial.stat().st_size < 30_000:
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.endswith("stopped\n")
    assert "Traceback" not in err
    server.released.set()
    server.requests.clear()
    begun = partial.stat().st_size
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    assert server.large_requests() == [f"bytes={begun}-"]


def test_a_hub_that_ignores_ranges(server):
    server.stop_at, server.ranges = [3000], False
    find_at_last()
    assert_the_model()
    assert len(server.large_requests()) > 1


@pytest.mark.parametrize("send", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_download_of_another_length_is_not_kept(server, cache, send):
    server.send = send
    assert message()
    assert not list(cache.rglob("model.safetensors"))
    server.send = lambda data: data
    assert_the_model()


@pytest.mark.parametrize(
    "left", [b"", b"something else", b"x" * 10**5], ids=["nothing", "of another file", "more than there is"]
)
def test_a_bad_partial_file_is_downloaded_again(server, cache, files, left):
    partial = unfinished(cache, files)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    assert_the_model()
    assert not partial.exists()
    assert server.large_requests()[-1] is None


def test_a_complete_partial_file_is_taken(server, cache, files):
    partial = unfinished(cache, files)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(files["model.safetensors"])
    assert_the_model()
    assert server.large_requests() == []


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[::-1]],
    ids=["one bit", "reversed"],
)
def test_a_damaged_download_is_not_kept(server, cache, files, damage):
    server.send = damage
    text = message()
    assert text.startswith(
        f"{NAME}: model.safetensors: what {server.url} sent is damaged, and was thrown away: its sha"
    )
    digest = sha256(files["model.safetensors"]).hexdigest()
    assert digest in text
    assert not [path for path in cache.rglob("*") if path.name in (digest, f"{digest}.incomplete", "model.safetensors")]
    assert len(server.large_requests()) == 1
    server.send = lambda data: data
    assert_the_model()


def test_two_processes_at_a_time(server, environment):
    """They wait for each other: the file is sent once."""
    server.stop_at, server.then = [3000], "wait"
    run = [sys.executable, "-c", f"from npgpt.checkpoints.huggingface.hub import find; print(find('{NAME}'))"]
    with subprocess.Popen(run, **PIPES, env=environment) as one:
        assert server.waiting.wait(60)
        number = len(server.requests)
        with subprocess.Popen(run, **PIPES, env=environment) as other:
            until = time.monotonic() + 60
            while "model.safetensors" not in [path.rsplit("/")[-1] for _, path, _ in server.requests[number:]]:
                assert other.poll() is None
                assert time.monotonic() < until
            time.sleep(0.2)  # it has the last answer that it needs before it waits
            server.released.set()
            found = {process.communicate(timeout=60)[0] for process in (one, other)}
    assert found == {f"{find(NAME)}\n"}
    assert server.large_requests() == [None]


# What the hub doesn't give


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, None), "has no {name} either, or it is private: then log in with `hf auth login`, or set HF_TOKEN"),
        ((401, "GatedRepo"), "Its owner gives it on request: see {url}/{name}, then log in"),
        ((403, None), "{url} has no {name} either, or it is private: then log in with"),
        ((404, "RevisionNotFound"), "{name} can't be downloaded from {url} (RevisionNotFoundError"),
        ((500, None), "{name} can't be downloaded from {url} ("),
    ],
    ids=str,
)
def test_refusals(server, cache, refusal, words):
    server.refuse[NAME] = refusal
    first, second = message().split("\n")
    assert first == f"{NAME}: there is no such file or folder, and no such model in the hub's cache, {cache}."
    assert words.format(name=NAME, url=server.url) in second
    assert second.endswith("; or put its config.json and model.safetensors into a folder, and name the folder")
    assert len(server.requests) <= 6


def test_repositories_of_something_else(server, files):
    server.repositories[NAME] = {"README.md": b"", "model.safetensors": files["model.safetensors"]}
    assert f"{NAME} has no config.json at {server.url}" in message()
    server.repositories[NAME] = {"config.json": files["config.json"], "tf_model.h5": files["tf_model.h5"]}
    assert f"{NAME} has none of {', '.join(WEIGHTS)} at {server.url}" in message()
    server.commit = COMMIT[::-1]
    server.repositories[NAME] = files | {"config.json": b'{"model_type": "llama"}'}
    assert "config.json: model_type is 'llama', and npgpt computes only 'gpt2'" in message()
    assert server.large_requests() == []


@pytest.mark.parametrize("commit", ["", "../../../outside"])
def test_a_bad_commit_hash_from_the_hub_is_refused(server, cache, commit):
    server.commit = commit
    assert "its answers don't have the headers of a Hugging Face hub" in message()
    assert not cache.exists()


@pytest.mark.parametrize("endpoint", ["rubbish", "http://127.0.0.1:99999"])
def test_a_bad_endpoint_is_refused(server, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert f"{NAME} can't be downloaded from {endpoint} (" in message()
    assert server.requests == []


def test_a_mistyped_path_is_not_asked_for_on_the_hub(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/typo", "models/a.gguf", "models/model.safetensors"):
        with pytest.raises(CheckpointError, match=f"^{path}: there is no such file or folder"):
            open_checkpoint(path)
    assert server.requests == []


@pytest.mark.parametrize(("variable", "value"), [("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "True")])
def test_offline_the_hub_is_not_asked(server, files, cache, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert f"\n{variable} is set: unset it to download the model; or put its config.json and" in message()
    put_in_cache(cache, NAME, files)
    assert_the_model()
    assert server.requests == []


def test_a_hub_without_a_tokenizer_is_asked_once(server, files):
    del files["vocab.json"]
    snapshot = find(NAME)
    number = len(server.requests)
    assert find(NAME) == snapshot
    assert len(server.requests) == number


def test_what_is_there_already_needs_no_room_again(server, cache, files, monkeypatch):
    partial = unfinished(cache, files)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(files["model.safetensors"][:-900])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert_the_model()


def test_a_disk_that_is_too_small(server, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 10**9 * 5)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert_the_model()
    server.commit, server.repositories["a/b"] = COMMIT[::-1], server.repositories[NAME]
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert "a/b: model.safetensors: 0.0 GB are to be downloaded" in message("a/b")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_cache_that_may_not_be_written_to(server, cache):
    cache.mkdir()
    cache.chmod(0o500)
    assert "PermissionError" in message()


# The commands


@pytest.fixture
def chatty(server, tmp_path):
    """A model with a tokenizer of 257 ids on the hub."""
    config = {**TINY, "vocab_size": 257, "n_positions": 16}
    tokenizer = json.dumps(ByteTokenizer().to_dict()).encode()
    server.repositories[NAME] = model_files(tmp_path, config=config) | {OUR_TOKENIZER_FILE: tokenizer}
    return server


def test_sampling_from_a_name(chatty, environment):
    typed = ["--model", NAME, "--prompt", "ab", "--greedy", "--max-new-tokens", "3"]
    first = process("sample", *typed, cwd=".", env=environment)
    assert first.code == 0, first
    assert first.out.startswith("ab")
    again = process("sample", *typed, cwd=".", env=environment | {"HF_HUB_OFFLINE": "1"})
    assert (again.code, again.out) == (0, first.out)
