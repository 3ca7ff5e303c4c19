"""Folders that transformers loads: the same names, bytes, logits and text; all of a folder, or nothing."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.models import as_checkpoint, with_random_parameters

import npgpt
from checkpoints.huggingface.test_config import RELEASED
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface import write as huggingface_writer
from npgpt.checkpoints.huggingface.config import config_from_huggingface, config_to_huggingface
from npgpt.checkpoints.huggingface.write import write as write_huggingface
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer

REASON = "compares with transformers and torch, which are not installed"
CONFIG = GPTConfig(vocab_size=257, block_size=12, n_layer=2, n_head=2, n_embd=8)
FILES = ["config.json", "generation_config.json", "model.safetensors"]
TOKENIZER_FILES = ["npgpt_tokenizer.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason=REASON)


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers", reason=REASON)


def drawn(seed: int) -> GPTConfig:
    """A configuration that GPT-2 of transformers has, each setting drawn by itself."""
    rng = np.random.default_rng(seed)

    def one_of(*values):
        return values[rng.integers(len(values))]

    H = one_of(1, 2, 3)
    return GPTConfig(
        vocab_size=one_of(257, 260, 300),
        block_size=one_of(12, 33),
        n_layer=one_of(1, 2, 3),
        n_head=H,
        n_embd=H * one_of(4, 7),
        n_inner=one_of(None, 5, 40),
        dropout=one_of(0.0, 0.1),
        bias=one_of(True, True, False),
        qkv_bias=one_of(None, True, False),
        tie_weights=one_of(True, False),
        activation=one_of("gelu_new", "gelu", "relu"),
        layer_norm_epsilon=one_of(1e-5, 1e-2),
        scale_attn_by_inverse_layer_idx=one_of(True, False),
    )


def model_of(config: GPTConfig, seed: int = 0) -> GPT:
    return with_random_parameters(GPT.empty(config), seed).eval()


def logits_of(model: GPT, ids: np.ndarray) -> np.ndarray:
    with npgpt.no_grad():
        return model(ids).data


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# config.json


@pytest.mark.parametrize("seed", range(20))
def test_a_configuration_comes_back(seed):
    config = drawn(seed)
    values = json.loads(json.dumps(config_to_huggingface(config, ByteTokenizer())))
    assert config_from_huggingface(values, "x") == replace(config, bias=True, qkv_bias=None)


def test_every_setting_has_a_place():
    """Fails for a new setting, until it is written too."""
    written = config_to_huggingface(CONFIG, None)
    others = {"n_head": 1, "dropout": 0.5, "layer_norm_epsilon": 0.5, "activation": "relu"}
    others |= {"tie_weights": False, "scale_attn_by_inverse_layer_idx": True}
    for field in fields(GPTConfig):
        if field.name not in {"bias", "qkv_bias", "position"}:  # the first two become zeros, the last has one value
            changed = replace(CONFIG, **{field.name: others.get(field.name, 16)})
            assert config_to_huggingface(changed, None) != written, field.name


def test_config_json_is_that_of_the_released_model():
    values = config_to_huggingface(GPTConfig(dropout=0.1), GPT2Tokenizer(), "BF16")
    released = {key: value for key, value in RELEASED.items() if not key.startswith(("summary_", "task_"))}
    assert {key: values[key] for key in released} == released
    assert (values["dtype"], values["n_inner"], values["tie_word_embeddings"]) == ("bfloat16", None, True)
    values = config_to_huggingface(CONFIG, None)
    assert (values["n_positions"], values["n_ctx"], values["eos_token_id"]) == (12, 12, None)


# Round trips


@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, seed):
    config = replace(drawn(seed), bias=True, qkv_bias=None)
    model = model_of(config, seed)
    rng = np.random.default_rng(seed)
    for _, parameter in model.named_parameters():  # NaN with payloads, -0.0, subnormals
        parameter.data.view(np.uint32)[...] = rng.integers(0, 2**32, parameter.shape, np.uint32)
    write_huggingface(tmp_path / "a", as_checkpoint(model, ByteTokenizer()))
    read = open_checkpoint(tmp_path / "a")
    assert read.config == config
    assert read.tokenizer.to_dict() == {"name": "byte"}
    assert {name: tensor.numpy().tobytes() for name, tensor in read.tensors.items()} == {
        name: array.tobytes() for name, array in model.state_dict().items()
    }
    write_huggingface(tmp_path / "b", read)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize("tokenizer", [CharTokenizer("\0\t\n aé😀"), ByteTokenizer(), GPT2Tokenizer(), None])
def test_files_and_tokenizers(tmp_path, tokenizer):
    """In a vocabulary that is larger, the ids past the tokenizer's have no text."""
    config = replace(CONFIG, vocab_size=300 if tokenizer is None else tokenizer.vocab_size + 47)
    model = GPT(config, seed=0)
    write_huggingface(tmp_path / "a", as_checkpoint(model, tokenizer))
    more = [] if tokenizer is None else TOKENIZER_FILES
    more = [*more, "merges.txt", "vocab.json"] if isinstance(tokenizer, GPT2Tokenizer) else more
    assert names(tmp_path / "a") == sorted(FILES + more)
    read = open_checkpoint(tmp_path / "a")
    assert read.config == config
    if tokenizer is None:
        assert read.tokenizer is None
    else:
        assert read.tokenizer.to_dict() == tokenizer.to_dict()
        with pytest.raises(TokenizerError):
            read.tokenizer.decode([config.vocab_size - 1])


def test_a_tokenizer_that_is_unknown_stays_so(tmp_path):
    """A vocabulary of GPT-2's size that is another one must not become GPT-2's by being copied."""
    checkpoint = as_checkpoint(GPT(GPTConfig(50257, 2, 1, 1, 2), seed=0))
    write_huggingface(tmp_path / "a", checkpoint)
    assert open_checkpoint(tmp_path / "a").tokenizer.name == "gpt2"
    write_huggingface(tmp_path / "b", replace(checkpoint, find_tokenizer=lambda: None))
    assert open_checkpoint(tmp_path / "b").tokenizer is None


def test_a_matrix_that_is_stored_transposed_is_written_like_others(tmp_path):
    model = model_of(CONFIG)
    checkpoint = as_checkpoint(model)
    for name, tensor in checkpoint.tensors.items():
        if len(tensor.shape) == 2:
            checkpoint.tensors[name] = lazy_array(np.ascontiguousarray(tensor.numpy().T)).T
    write_huggingface(tmp_path / "a", checkpoint)
    write_huggingface(tmp_path / "b", as_checkpoint(model))
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# All or nothing


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, at, error):
    """At each of the files in turn: seven, and what is after the last."""
    monkeypatch.chdir(tmp_path)
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == 2 * at + 1 and at < 7:  # of each file, then of its folder
            raise error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    if at == 7:
        monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_huggingface("a", as_checkpoint(GPT(CONFIG, seed=0), ByteTokenizer()))
    if isinstance(error, OSError):
        assert re.fullmatch(r"a(/model\.safetensors)?: can't be written: No space left on device", str(caught.value))
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C, as POSIX does")
def test_ctrl_c_leaves_nothing(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from dataclasses import replace\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from helpers.models import as_checkpoint\n"
        "from npgpt import GPT, GPTConfig\n"
        "from npgpt.checkpoints.huggingface.write import write as write_huggingface\n"
        "checkpoint = as_checkpoint(GPT(GPTConfig(11, 6, 1, 2, 8), seed=0))\n"
        "last = checkpoint.tensors['wte.weight']\n"
        "def read_rows(*where):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return last.read_rows(*where)\n"
        "checkpoint.tensors['wte.weight'] = replace(last, read_rows=read_rows)\n"
        "write_huggingface(sys.argv[1], checkpoint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr
    assert names(tmp_path) == []


def test_a_number_too_large_leaves_nothing(tmp_path):
    checkpoint = as_checkpoint(GPT(CONFIG, seed=0))
    checkpoint.tensors["wte.weight"] = lazy_array(np.full((257, 8), -1e5, np.float32))
    with pytest.raises(CheckpointError, match=r"/a: tensor wte\.weight: -100000 is too large for F16$"):
        write_huggingface(tmp_path / "a", checkpoint, "F16")
    assert names(tmp_path) == []


def test_what_exists_is_refused_untouched(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_writer, "write_safetensors", lambda *_: pytest.fail("something was written"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("y")
    for name in ("a", "b"):
        with pytest.raises(CheckpointError, match=f"/{name} is there already: name a new file or folder$"):
            write_huggingface(tmp_path / name, as_checkpoint(GPT(CONFIG, seed=0)))
    with pytest.raises(CheckpointError, match=r"/none/a: can't be written: No such file or directory$"):
        write_huggingface(tmp_path / "none" / "a", as_checkpoint(GPT(CONFIG, seed=0)))
    assert names(tmp_path) == ["a", "b"]
    assert (names(tmp_path / "a"), (tmp_path / "b").read_text()) == ([], "y")


# Against transformers, torch and safetensors


@pytest.mark.parametrize("seed", range(6))
def test_transformers_computes_the_same(tmp_path, torch, transformers, seed):
    config = drawn(100 + seed)
    model = model_of(config, seed)
    write_huggingface(tmp_path / "a", as_checkpoint(model, ByteTokenizer()))
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.dtype == torch.float32
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, config.vocab_size, (2, config.block_size))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
    for ours in (model, load(tmp_path / "a").eval()):
        np.testing.assert_allclose(logits_of(ours, ids), expected, atol=1e-4, rtol=1e-4)
    prompt = ids[:1, :3]
    theirs.generation_config.eos_token_id = None  # ours goes on after it too
    new = config.block_size - 3
    continued = theirs.generate(torch.from_numpy(prompt), max_new_tokens=new, do_sample=False, pad_token_id=0)
    np.testing.assert_array_equal(model.generate(prompt, new, temperature=0), continued.numpy())
    # The file is the one that transformers writes of it.
    theirs.save_pretrained(tmp_path / "b")
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # And each setting that they write has the value that ours has.
    ours, saved = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab")
    del ours["torch_dtype"]
    assert ours.items() <= saved.items()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_transformers_takes_the_dtype(tmp_path, torch, transformers, dtype):
    model = model_of(replace(CONFIG, tie_weights=False))
    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    write_huggingface(tmp_path / "a", as_checkpoint(model), short)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "a", dtype="auto")
    assert theirs.dtype == getattr(torch, dtype)
    for name, tensor in theirs.state_dict().items():
        expected = torch.from_numpy(model.state_dict()[name.removeprefix("transformer.")]).to(tensor.dtype)
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_texts(["To be, or not to be?\n"]), ByteTokenizer()])
def test_the_same_text_from_both(tmp_path, torch, transformers, tokenizer):
    model = model_of(replace(CONFIG, vocab_size=tokenizer.vocab_size, block_size=40))
    write_huggingface(tmp_path / "a", as_checkpoint(model, tokenizer))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    ids = their_tokenizer("not to be", return_tensors="pt").input_ids
    continued = theirs.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0]
    ours = model.generate(tokenizer.encode("not to be")[None], len(continued) - ids.shape[1], temperature=0)[0]
    assert their_tokenizer.decode(continued) == tokenizer.decode(ours)
    assert theirs.generation_config.eos_token_id == tokenizer.end_of_text
