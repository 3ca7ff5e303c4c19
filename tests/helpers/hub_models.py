"""A small model as it is on the hub and in its cache, for the tests of both; ``files`` and ``cache`` are fixtures."""

import importlib.util
import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
from checkpoints.huggingface.test_config import TINY, assert_same, parameters

from helpers.hub_server import COMMIT
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.errors import CheckpointError

NAME = "someone/tiny-gpt2"
REASON = "downloads with huggingface_hub, which is not installed"
needs_huggingface_hub = pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason=REASON)


def model_files(folder: Path, shards: int = 0, config: dict = TINY) -> dict[str, bytes]:
    """The files of a small model, as they are on the hub, and some that npgpt doesn't need."""
    arrays = parameters("transformer.", config)
    files = {"config.json": json.dumps(config).encode(), "README.md": b"# Tiny", "tf_model.h5": b"H5" * 4000}
    files |= {"generation_config.json": b"{}", "vocab.json": b'{"a": 0}', "onnx/model.onnx": b"ONNX" * 2000}

    def written(arrays):
        write_safetensors(folder / "written", arrays)
        return (folder / "written").read_bytes()

    if not shards:
        return files | {"model.safetensors": written(arrays), "pytorch_model.bin": b"PK" * 4000}
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(arrays)}
    for place in set(places.values()):
        files[place] = written({name: array for name, array in arrays.items() if places[name] == place})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


def put_in_cache(cache: Path, name: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """Lay files out as huggingface_hub does; -> the snapshot."""
    storage = cache / f"models--{name.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    for folder in (snapshot, storage / "blobs", storage / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (storage / "refs" / "main").write_text(commit)
    for file, data in files.items():
        blob = storage / "blobs" / sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / file).parent.mkdir(exist_ok=True)
        (snapshot / file).symlink_to(os.path.relpath(blob, (snapshot / file).parent))
    return snapshot


@pytest.fixture
def files(tmp_path):
    """The files of a small model on the hub, by name."""
    return model_files(tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, in an empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_the_model(path=NAME, config=TINY):
    arrays = {name: tensor.numpy() for name, tensor in open_checkpoint(path).tensors.items()}
    assert_same(arrays, parameters(config=config))


def message(name=NAME) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(name)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    text = str(caught.value)
    assert text.count("\n") <= 2
    return text
