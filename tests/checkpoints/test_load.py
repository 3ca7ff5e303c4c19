"""One name in, a model out: what is at the path is told from its content, and whatever it is not is said."""

import json
import os
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers.mutations import COUNT, memory_at_most

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint, open_with_tokenizer, runs, save
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, save_tokenizer
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8, n_inner=24, activation="gelu")


@pytest.fixture
def run(tmp_path):
    """A run with different best and last weights."""
    write_run_config(tmp_path, CONFIG, {}, TrainSettings().resolve(1, 8))
    save_tokenizer(CharTokenizer("abcdefghij"), tmp_path / "tokenizer.json")
    optimizer = {"m.wte.weight": np.zeros((11, 8), np.float32)}
    runs.save_checkpoint(
        tmp_path / "last.safetensors", GPT(CONFIG, seed=1).state_dict(), optimizer, {"step": 3}, CONFIG
    )
    runs.save_weights(tmp_path / "best.safetensors", GPT(CONFIG, seed=2).state_dict(), CONFIG)
    return tmp_path


def assert_same_model(model, config, seed):
    assert model.config == config
    expected = GPT(config, seed=seed).state_dict()
    assert sorted(model.state_dict()) == sorted(expected)
    for name, array in model.state_dict().items():
        assert array.tobytes() == expected[name].tobytes(), name


def test_a_run(run):
    for path in (run, str(run), run / "last.safetensors"):
        assert_same_model(load(path), CONFIG, seed=1)
        assert_same_model(npgpt.load(path), CONFIG, seed=1)
    assert_same_model(load(run / "best.safetensors"), CONFIG, seed=2)
    (run / "last.safetensors").unlink()
    assert_same_model(load(run), CONFIG, seed=2)


def test_best_or_last(run):
    assert open_checkpoint(run, "best").source == run / "best.safetensors"
    assert open_checkpoint(run).source == open_checkpoint(run, "last").source == run / "last.safetensors"
    assert not any(name.startswith("optimizer.") for name in open_checkpoint(run, "last").tensors)


def test_the_format_is_told_from_the_content_not_the_name(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "weights.bin"
    shutil.copy(run / "best.safetensors", path)
    assert_same_model(load(path), CONFIG, seed=2)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_dtypes(tmp_path, tie_weights):
    config = GPTConfig(**{**CONFIG.to_dict(), "tie_weights": tie_weights})
    arrays = GPT(config, seed=0).state_dict()
    assert ("lm_head.weight" in arrays) != tie_weights
    runs.save_weights(tmp_path / "f16", {name: array.astype(np.float16) for name, array in arrays.items()}, config)
    for dtype in (np.float32, np.float64):
        for name, array in load(tmp_path / "f16", dtype=dtype).state_dict().items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, arrays[name].astype(np.float16))


def test_parameters_are_copies_that_can_be_trained(run):
    model = load(run)
    for _, parameter in model.named_parameters():
        parameter.data += 1
    assert_same_model(load(run), CONFIG, seed=1)


# Tokenizers


def test_the_tokenizer_beside_the_weights(run):
    for path in (run, run / "last.safetensors"):
        assert open_checkpoint(path).tokenizer.characters == "abcdefghij"


def test_the_tokenizer_of_gpt2_where_the_vocabulary_has_its_size(run, tmp_path):
    (run / "tokenizer.json").unlink()
    assert open_checkpoint(run).tokenizer is None
    config = GPTConfig(block_size=4, n_layer=1, n_head=1, n_embd=2)
    runs.save_weights(tmp_path / "a", GPT(config, seed=None).state_dict(), config)
    assert isinstance(open_checkpoint(tmp_path / "a").tokenizer, GPT2Tokenizer)


def test_a_tokenizer_that_does_not_fit(run):
    save_tokenizer(ByteTokenizer(), run / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: 257 ids, and the model has 11"):
        _ = open_checkpoint(run).tokenizer
    for damaged in (
        "{",
        "[]",
        '{"name": "char"}',
        '{"name": "byte", "name": "byte"}',
        '{"name": "char", "characters": "ba"}',
    ):
        (run / "tokenizer.json").write_text(damaged)
        with pytest.raises(TokenizerError, match=r"^/.*tokenizer\.json: "):
            _ = open_checkpoint(run).tokenizer
    load(run)  # the weights are fine


def test_a_tokenizer_that_is_no_file_does_not_hang(run):
    (run / "tokenizer.json").unlink()
    os.mkfifo(run / "tokenizer.json")
    with pytest.raises(TokenizerError, match="not a regular file"):
        _ = open_checkpoint(run).tokenizer


def test_npgpts_tokenizer_beside_another_programs_file(tmp_path):
    save(GPT(replace(CONFIG, n_inner=None, activation="gelu_new"), seed=0), tmp_path / "a.bin", "llm.c")
    with pytest.raises(CheckpointError, match=r"npgpt_tokenizer\.json beside other files"):
        open_with_tokenizer(tmp_path / "a.bin")
    save_tokenizer(CharTokenizer("abcdefghij"), tmp_path / "npgpt_tokenizer.json")
    assert open_with_tokenizer(tmp_path / "a.bin")[1].characters == "abcdefghij"


# What can't be loaded


@pytest.mark.parametrize("name", ["gpt3", "./gpt2", "runs/a/b", "../gpt2", "a\0b", "x" * 300])
def test_what_is_no_path_and_no_name_of_a_model(name, tmp_path, monkeypatch):
    """Names of models on the hub: test_hub.py."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"there is no such file or folder\. Name a run, a folder .* or a model"
    ) as e:
        load(name)
    assert str(e.value).startswith(f"{name}: ")
    assert "\n" not in str(e.value)


def test_folders_that_are_something_else(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in it, so it is neither a run .* nor a Hugging Face"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match=r"config\.json: neither model_type nor n_embd"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"config\.json: model_type is 'bert'"):
        load(tmp_path)
    write_run_config(tmp_path, CONFIG, {}, TrainSettings().resolve(1, 8))
    with pytest.raises(CheckpointError, match=r"no last\.safetensors and no best\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" * 10, b"\x80\x02}q\x00." * 5, b"{}"])
def test_files_that_are_something_else(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(tmp_path / 'a.safetensors'))}: "):
        load(tmp_path / "a.safetensors")


def test_a_weights_file_of_hugging_face_without_its_folder(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", GPT(CONFIG, seed=0).state_dict())
    with pytest.raises(CheckpointError, match=r"tensors only, .*\nput the config\.json that belongs to it beside it"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("h.1.mlp.c_fc.weight"), r"h\.1\.mlp\.c_fc\.weight"),
        (lambda arrays: arrays.update({"h.1.mlp.w": np.zeros(1)}), r"h\.1\.mlp\.w"),
        (lambda arrays: arrays.update({"wpe.weight": np.zeros((5, 8))}), r"wpe\.weight.*\(6, 8\).*\(5, 8\)"),
        (
            lambda arrays: arrays.update({"h.7.ln_1.weight": np.zeros(8)}),
            "3 layers in the file, 2 in its configuration",
        ),
        (lambda arrays: [arrays.pop(n) for n in [*arrays] if n[:4] == "h.1."], "1 layers in the file, 2 in its config"),
        (lambda arrays: arrays.clear(), "0 layers in the file, 2 in its configuration"),
        (lambda arrays: arrays.update({"h.": np.zeros(1)}), "3 layers in the file"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(tmp_path, change, message):
    arrays = GPT(CONFIG, seed=0).state_dict()
    change(arrays)
    runs.save_weights(tmp_path / "a", arrays, CONFIG)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)


@pytest.mark.parametrize("field", ["vocab_size", "block_size", "n_layer", "n_embd", "n_inner"])
def test_a_configuration_of_a_giant_takes_no_memory(tmp_path, field):
    config = GPTConfig(**{**CONFIG.to_dict(), field: 2**30})
    runs.save_weights(tmp_path / "a", GPT(CONFIG, seed=0).state_dict(), config)
    with pytest.raises(
        CheckpointError, match=r"must have shape \(.*1073741824.*, and has |layers in the file, 1073741824 in its"
    ):
        load(tmp_path / "a")


@pytest.mark.parametrize("position", ["rotary", "sinusoidal"])
def test_a_long_context_takes_no_memory(tmp_path, position):
    """It is in no tensor's shape; what is tried after loading must not make room for all of it."""
    config = replace(CONFIG, n_layer=4, position=position, block_size=2**19)
    model = GPT(replace(config, block_size=4), seed=0)
    save(model, tmp_path / "a.safetensors", "safetensors")
    runs.save_weights(tmp_path / "b", model.state_dict(), config)
    with memory_at_most(2**19 * 8 * 8 if position == "sinusoidal" else 0):
        assert load(tmp_path / "b").config == config
    runs.save_weights(tmp_path / "c", model.state_dict(), replace(config, block_size=2**31 - 1))
    with (
        memory_at_most(0),
        pytest.raises(CheckpointError, match="a context of 2,147,483,647 in its configuration, far"),
    ):
        load(tmp_path / "c")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_what_may_not_be_read(run, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("npgpt.checkpoints.is_run", refuse)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(run))}: can't be read: Permission denied$"):
        load(run)


# Against transformers


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": False, "activation_function": "relu", "n_inner": 20},
        {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    ],
    ids=["as released", "untied, relu, narrow", "exact gelu, scaled by layer"],
)
def test_logits_are_those_of_transformers(tmp_path, settings):
    reason = "compares with transformers and torch, which are not installed"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "n_positions": 9, "n_embd": 16, "n_layer": 3, "n_head": 4, "initializer_range": 0.5}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **settings)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and layer norms begin as constants, which would hide a mix-up
            parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    expected = theirs(torch.from_numpy(ids)).logits.detach().numpy()
    with npgpt.no_grad():
        found = load(tmp_path).eval()(ids).data
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_a_damaged_run_config_is_named(run):
    (run / "config.json").write_text(json.dumps({"format": "npgpt run"})[:-3])
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON at character"):
        load(run)
    assert_same_model(load(run / "best.safetensors"), CONFIG, seed=2)


def test_mutated_configurations_load_or_are_refused(tmp_path):
    """Damaged config.json beside good weights: each gives a model of the weights' shapes or a CheckpointError."""
    config = {"model_type": "gpt2", "vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}
    config |= {"n_inner": 24, "activation_function": "gelu", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    good = json.dumps(config).encode()
    write_safetensors(tmp_path / "model.safetensors", GPT(CONFIG, seed=0).state_dict())
    words = [match.span() for match in re.finditer(rb'"[^"]*"|[\d.]+|[{},:]', good)]
    others = [b"0", b"-1", b"0.5", b"1e9", b"1000000000", b"null", b"true", b"[]", b"{}", b'"\\ud800"', b"\xff", b"NaN"]
    rng = random.Random(0)
    refused = 0
    for _ in range(COUNT):
        begin, end = rng.choice(words)
        another = rng.choice([*others, good[slice(*rng.choice(words))]])
        (tmp_path / "config.json").write_bytes(good[:begin] + another + good[end:])
        try:
            model = load(tmp_path)
        except CheckpointError as error:
            refused += 1
            message = str(error)
            assert str(tmp_path) in message
        else:
            assert sorted(model.state_dict()) == sorted(GPT(CONFIG, seed=None).state_dict())
    assert 0.5 * COUNT < refused < COUNT
