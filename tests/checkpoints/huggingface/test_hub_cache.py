"""Models by name: what is a name, and what is found in the hub's cache without a network or a package."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

import pytest
from helpers.hub_models import (
    NAME,
    assert_the_model,
    message,
    model_files,
    needs_huggingface_hub,
    put_in_cache,
)
from helpers.hub_server import COMMIT
from hypothesis import example, given
from hypothesis import strategies as st

from checkpoints.huggingface.test_config import TINY
from npgpt.checkpoints import load
from npgpt.checkpoints.huggingface import hub as hub_module
from npgpt.checkpoints.huggingface.hub import FULL_NAMES, find
from npgpt.errors import CheckpointError

# Names


NO_NAMES = ["", "tiny", "GPT2", "a/b/c", "../b", "a/..", "a/b..c", "a--b/c", "/a", "a/", "-a/b", "a/.b", "a/b\n"]
NO_NAMES += ["a\\b/c", "é/b", "~/b", "a b/c", "a/b\0", "hf://a/b", "https://huggingface.co/a/b", "a/" + "b" * 97]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_bad_name_is_refused(cache, name):
    """It is not looked for in the cache, nor asked for."""
    with pytest.raises(CheckpointError, match=r"there is no such file or folder\. Name a run, a folder"):
        find(name)


@needs_huggingface_hub
@given(st.from_regex(r"[aB0_.é-]{1,5}/[aB0_.é-]{1,5}", fullmatch=True))
@example("a/" + "b" * 96)
@example("a--b/c")
def test_our_names_are_the_hubs(name):
    from huggingface_hub.utils import validate_repo_id

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hub_module, "_cached", lambda storage: storage)
            patch.setattr(hub_module, "_is_tokenizer_known", lambda snapshot: True)
            storage = find(name)
    except CheckpointError:
        return
    assert storage.parent == Path(os.environ["HF_HUB_CACHE"])
    if not name.endswith((".git", ".ipynb")):
        validate_repo_id(name)


def test_a_path_wins_over_a_name(cache, files):
    put_in_cache(cache, "openai-community/gpt2", files)
    Path("gpt2").mkdir()
    with pytest.raises(CheckpointError, match=r"gpt2: no config\.json in it"):
        load("gpt2")


# The cache. Everything here goes without huggingface_hub.


@pytest.fixture
def without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_model_in_the_cache(cache, tmp_path, without_huggingface_hub, shards):
    put_in_cache(cache, NAME, model_files(tmp_path, shards))
    assert_the_model()
    assert_the_model(Path(NAME))
    assert load(NAME).config.n_embd == TINY["n_embd"]


@pytest.mark.parametrize("stored", ["short", "full"])
@pytest.mark.parametrize(("short", "full"), FULL_NAMES.items())
def test_old_names_and_new_ones(cache, files, without_huggingface_hub, short, full, stored):
    del files["vocab.json"]  # their tokenizer is known without it
    snapshot = put_in_cache(cache, short if stored == "short" else full, files)
    assert find(short) == find(full) == snapshot


def test_who_owns_the_models_of_old_names():
    assert FULL_NAMES["gpt2-xl"] == "openai-community/gpt2-xl"
    assert FULL_NAMES["distilgpt2"] == "distilbert/distilgpt2"


ENVIRONMENTS = [
    {},
    {"HF_HUB_CACHE": "~/hub", "HUGGINGFACE_HUB_CACHE": "/b"},
    {"HUGGINGFACE_HUB_CACHE": "$THERE/hub", "THERE": "/c", "HF_HOME": "/d"},
    {"HF_HOME": "/d", "XDG_CACHE_HOME": "/e"},
    {"XDG_CACHE_HOME": "~/e"},
    {"HF_HUB_CACHE": ""},
]


@needs_huggingface_hub
@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, variables):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    constants = runpy.run_path(importlib.util.find_spec("huggingface_hub.constants").origin)
    assert str(hub_module._cache()) == str(Path(constants["HF_HUB_CACHE"]))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "model-00002-of-00003.safetensors"])
@pytest.mark.parametrize("how", ["never there", "its content is gone"])
def test_a_snapshot_that_is_not_complete(cache, tmp_path, without_huggingface_hub, missing, how):
    snapshot = put_in_cache(cache, NAME, model_files(tmp_path, shards=3 * ("-of-" in missing)))
    for path in (snapshot / missing, snapshot / "pytorch_model.bin"):
        if path.exists():
            (path if how == "never there" else path.resolve()).unlink()
    assert "no such model in the hub's cache" in message()


def test_weights_without_their_tokenizer(cache, tmp_path, without_huggingface_hub):
    """Another tool got them alone: no tokenizer is guessed, unless the hub was asked and has none."""
    snapshot = put_in_cache(cache, NAME, model_files(tmp_path))
    for file in hub_module.VOCABULARIES:
        (snapshot / file).unlink(missing_ok=True)
    assert f"{NAME}: its weights are in {snapshot}, and none of its tokenizer's files" in message()
    assert message().endswith("; or name that folder, and a tokenizer is guessed by the vocabulary's size")
    assert load(snapshot).config.n_embd == TINY["n_embd"]
    asked = snapshot.parents[1] / ".no_exist" / snapshot.name / "npgpt_tokenizer.json"
    for file in (asked, snapshot / "vocab.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        assert find(NAME) == snapshot
        file.unlink()


@pytest.mark.parametrize("ref", ["", "main", "../../../outside", COMMIT + "0", COMMIT.upper(), "é\udc80"])
def test_refs_that_name_no_commit(cache, tmp_path, files, without_huggingface_hub, ref):
    """Also those behind which there is a model."""
    snapshot = put_in_cache(cache, NAME, files)
    for path in (tmp_path / "outside", snapshot.parent / "main", snapshot.parent / (COMMIT + "0")):
        path.symlink_to(snapshot)
    (snapshot.parents[1] / "refs" / "main").write_bytes(ref.encode(errors="surrogateescape"))
    assert "no such model in the hub's cache" in message()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT + "\n")
    assert_the_model()
    (snapshot.parents[1] / "refs" / "main").unlink()
    assert "no such model in the hub's cache" in message()


def test_without_huggingface_hub(cache, without_huggingface_hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    first, second = message("gpt2").split("\n")
    assert first == f"gpt2: there is no such file or folder, and no such model in the hub's cache, {cache}."
    assert second.startswith("To download models: pip install -U huggingface_hub (here: ModuleNotFoundError: ")
    assert second.endswith("; or put its config.json and model.safetensors into a folder, and name the folder")


def test_a_file_in_the_cache_that_was_cut_off(cache, files):
    weights = files["model.safetensors"]
    put_in_cache(cache, NAME, {**files, "model.safetensors": weights[: len(weights) // 2]})
    storage = cache / f"models--{NAME.replace('/', '--')}"
    with pytest.raises(CheckpointError) as raised:
        load(NAME)
    problem, advice = str(raised.value).splitlines()
    assert problem.endswith("it is cut off.")
    assert advice == f"If the file is damaged, remove {storage}, and the model is downloaded again"
