"""One name in, a model out: what is at the path is told from its content, and whatever it is not is said."""

import json
import os
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.mutations import COUNT, memory_at_most

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint, runs, save
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8, n_inner=24, activation="gelu")


@pytest.fixture
def run(tmp_path):
    """A run with different best and last weights."""
    write_run_config(tmp_path, CONFIG, {}, TrainSettings().resolve(1, 8))
    write_json(tmp_path / "tokenizer.json", CharTokenizer("abcdefghij").to_dict())
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


def test_a_weight_that_is_nan_is_named(tmp_path):
    arrays = GPT(CONFIG).state_dict()
    arrays["ln_f.bias"][-1] = np.nan
    runs.save_weights(tmp_path / "a", arrays, CONFIG)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 'ln_f\.bias'"):
        load(tmp_path / "a")


# Tokenizers


def test_the_tokenizer_beside_the_weights(run):
    for path in (run, run / "last.safetensors"):
        assert open_checkpoint(path).tokenizer.characters == "abcdefghij"


def test_the_tokenizer_of_gpt2_where_the_vocabulary_has_its_size(run, tmp_path):
    (run / "tokenizer.json").unlink()
    assert open_checkpoint(run).tokenizer is None
    config = GPTConfig(block_size=4, n_layer=1, n_head=1, n_embd=2)
    runs.save_weights(tmp_path / "a", GPT.empty(config).state_dict(), config)
    assert isinstance(open_checkpoint(tmp_path / "a").tokenizer, GPT2Tokenizer)


def test_a_tokenizer_that_does_not_fit(run):
    write_json(run / "tokenizer.json", ByteTokenizer().to_dict())
    with pytest.raises(CheckpointError, match=r"last\.safetensors: its tokenizer has 257 ids, and the model 11"):
        _ = open_checkpoint(run).tokenizer
    for damaged in ("[]", '{"name": "char", "characters": "ba"}'):
        (run / "tokenizer.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"^/.*tokenizer\.json: "):
            _ = open_checkpoint(run).tokenizer
    load(run)  # the weights are fine


def test_a_tokenizer_that_is_no_file_does_not_hang(run):
    (run / "tokenizer.json").unlink()
    os.mkfifo(run / "tokenizer.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        _ = open_checkpoint(run).tokenizer


def test_npgpts_tokenizer_beside_another_programs_file(tmp_path):
    save(GPT(replace(CONFIG, n_inner=None, activation="gelu_new"), seed=0), tmp_path / "a.bin", "llm.c")
    with pytest.raises(CheckpointError, match=r"no tokenizer .* of 11 ids:\nput .* npgpt_tokenizer\.json$"):
        open_checkpoint(tmp_path / "a.bin").require_tokenizer()
    (tmp_path / "tokenizer.json").write_text("{}")  # of another model, perhaps: only a Hugging Face folder has its own
    with pytest.raises(CheckpointError, match="no tokenizer is known"):
        open_checkpoint(tmp_path / "a.bin").require_tokenizer()
    write_json(tmp_path / "npgpt_tokenizer.json", CharTokenizer("abcdefghij").to_dict())
    assert open_checkpoint(tmp_path / "a.bin").require_tokenizer().characters == "abcdefghij"


# What can't be loaded


@pytest.mark.parametrize("name", ["gpt3", "./gpt2", "runs/a/b", "../gpt2", "a\0b", "x" * 300])
def test_neither_a_path_nor_a_name_is_refused(name, tmp_path, monkeypatch):
    """Names of models on the hub: test_hub.py."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"there is no such file or folder\. Name a run, a folder .* or a model"
    ) as e:
        load(name)
    assert str(e.value).startswith(f"{name}: ")
    assert "\n" not in str(e.value)


def test_folders_that_are_something_else(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in it, as runs and Hugging Face folders have"):
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


def test_a_weights_file_of_hugging_face_without_its_folder(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", GPT(CONFIG, seed=0).state_dict())
    with pytest.raises(CheckpointError, match=r"heads is unknown: .*,\nand there is no config\.json beside it"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("field", ["vocab_size", "block_size", "n_layer", "n_embd", "n_inner"])
def test_a_configuration_of_a_giant_takes_no_memory(tmp_path, field):
    giant = 2**24 if field == "n_embd" else 2**30
    config = GPTConfig(**{**CONFIG.to_dict(), field: giant})
    runs.save_weights(tmp_path / "a", GPT(CONFIG, seed=0).state_dict(), config)
    with pytest.raises(
        CheckpointError, match=rf"must have shape \(.*{giant}.*, and has |layers in the file, {giant} in its"
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

    monkeypatch.setattr(runs, "is_run", refuse)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(run))}: can't be read: Permission denied$"):
        load(run)


def test_a_checkpoint_of_another_name_is_refused_wherever_it_is_asked_for(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", GPT(CONFIG, seed=0).state_dict())
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match="must be 'last' or 'best', not 'lasst'"):
            load(path, checkpoint="lasst")


@pytest.mark.filterwarnings("ignore::npgpt.errors.CheckpointWarning")  # three different dropouts
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
            assert sorted(model.state_dict()) == sorted(GPT.empty(CONFIG).state_dict())
    assert 0.5 * COUNT < refused < COUNT
