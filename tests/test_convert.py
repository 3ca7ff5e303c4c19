"""python -m npgpt.convert: every format to every other, and the differences between two checkpoints."""

import os
import signal

import numpy as np
import pytest
from helpers.commands import command, listing, process, refused
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig, load, no_grad
from npgpt.checkpoints import open_checkpoint, runs, save
from npgpt.checkpoints.formats import WRITTEN
from npgpt.text.tokenizers import ByteTokenizer

CONFIG = GPTConfig(vocab_size=257, block_size=9, n_layer=2, n_head=2, n_embd=64)
ENDINGS = {"huggingface": "folder", "safetensors": "a.safetensors", "llm.c": "a.bin", "gguf": "a.gguf"}
# The largest error of rounding a weight to a dtype, relative to the weight; in blocks relative to the largest of
# its block: half a step of 127 in Q8_0, a step of 8 in Q4_0, and the error of rounding the step to float16.
ERRORS = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254 + 2**-11, "Q4_0": 1 / 8 + 2**-11}
SMALLEST = {"F16": 2**-25, "Q8_0": 2**-25, "Q4_0": 2**-25}  # below float16's normal numbers, steps are fixed


@pytest.fixture
def model():
    return with_random_parameters(GPT(CONFIG))


@pytest.fixture
def source(tmp_path, model):
    save(model, tmp_path / "source", tokenizer=ByteTokenizer())
    return tmp_path


@pytest.mark.parametrize(("to", "dtype"), [(to, dtype) for to, row in WRITTEN.items() for dtype in row.dtypes])
def test_convert_to_each_format_and_dtype_and_on_to_the_others(source, model, to, dtype):
    """From a Hugging Face folder, and from there to each of the others."""
    ended = command("convert", "source", ENDINGS[to], "--dtype", dtype, cwd=source)
    total = model.num_parameters()
    assert ended == (
        0,
        f"source (Hugging Face folder (safetensors)) -> {ENDINGS[to]} ({to}, {dtype}): {total:,} parameters\n",
        "llm.c doesn't keep the tokenizer (byte)\n" if to == "llm.c" else "",
    )
    once = load(source / ENDINGS[to]).state_dict()
    for name, array in model.state_dict().items():
        largest = largest_of_blocks(name, array) if dtype[0] == "Q" else np.abs(array)
        assert (np.abs(once[name] - array) <= ERRORS[dtype] * largest + SMALLEST.get(dtype, 0)).all(), name
    for other, ending in ENDINGS.items():
        path = source / "further" / ending
        path.parent.mkdir(exist_ok=True)
        assert command("convert", ENDINGS[to], path, "--to", other, cwd=source).code == 0
        for name, array in load(path).state_dict().items():
            np.testing.assert_array_equal(array, once[name])
        if "llm.c" not in (to, other):
            assert open_checkpoint(path).tokenizer.name == "byte"


def test_a_chat_template_is_left_out_with_a_warning(source):
    (source / "source" / "chat_template.jinja").write_text("{{ messages }}")
    ended = command("convert", "source", "a.gguf", cwd=source)
    assert (ended.code, ended.err) == (
        0,
        "warning: npgpt writes no chat templates, and leaves this one out (source/chat_template.jinja).\n"
        "Give it to the program that chats with a.gguf: llama-server takes --chat-template-file\n",
    )
    assert command("convert", "a.gguf", "again", cwd=source).err == ""


def test_a_dtype_in_small_letters_as_llama_cpps_programs_take_it(source):
    ended = command("convert", "source", "a.gguf", "--dtype", "q8_0", cwd=source)
    assert "-> a.gguf (gguf, Q8_0): " in ended.out, ended


def largest_of_blocks(name, array):
    """For each element the largest size of those that share its scale: 32 along what the matrix is multiplied along."""
    if array.ndim < 2 or name == "wpe.weight":  # they aren't in blocks
        return np.abs(array)
    rows = np.abs(array if name == "wte.weight" else array.T)
    largest = np.repeat(rows.reshape(len(rows), -1, 32).max(axis=2), 32, axis=1)
    return largest if name == "wte.weight" else largest.T


def test_diff_lists_tensors_and_settings_that_differ(source, model):
    ended = command("convert", "--diff", "source", "source", cwd=source)
    assert ended == (0, "28 tensors, all equal\n", "")
    before = model.h[1].mlp.c_fc.bias.data.copy()
    model.h[1].mlp.c_fc.bias.data[3] += 0.5
    save(model, source / "other.safetensors", "safetensors")
    ended = command("convert", "source", "other.safetensors", "--diff", cwd=source)
    relative = 0.5 / np.linalg.norm(before)
    assert ended.code == 1
    assert ended.out.splitlines() == [
        f"h.1.mlp.c_fc.bias          differs by up to 0.5, {relative:.3g} of its norm",
        "28 tensors, 1 differences",
    ]
    spelled = GPTConfig(**{**CONFIG.to_dict(), "n_inner": 4 * CONFIG.n_embd, "qkv_bias": CONFIG.bias})
    save(with_random_parameters(GPT(spelled)), source / "spelled.safetensors", "safetensors")
    save(with_random_parameters(GPT(CONFIG)), source / "default.safetensors", "safetensors")
    ended = command("convert", "spelled.safetensors", "default.safetensors", "--diff", cwd=source)
    assert (ended.code, ended.out) == (0, "28 tensors, all equal\n")
    refused(
        "convert", "source", "spelled.safetensors", "--diff", "--dtype", "F16", cwd=source, words=["leave out --dtype"]
    )
    smaller = with_random_parameters(
        GPT(GPTConfig(**{**CONFIG.to_dict(), "n_layer": 1, "n_inner": 32, "dropout": 0.1}))
    )
    save(smaller, source / "smaller.safetensors", "safetensors")
    ended = command("convert", "source", "smaller.safetensors", "--diff", cwd=source)
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[:3] == [
        "config n_layer: 2 and 1",
        "config n_inner: None and 32",
        "config dropout: 0.0 and 0.1 (of training: no difference)",
    ]
    assert "h.0.mlp.c_fc.weight        (64, 256) and (64, 32)" in lines
    assert "h.1.ln_1.weight            only in source" in lines
    assert max(map(len, lines)) <= 80


def test_diff_does_not_compare_numbers_that_are_no_weights(tmp_path, model):
    for name, count in (("a", 3), ("b", 3), ("c", 4)):
        weights = model.state_dict() | {"ids": np.arange(count)}
        runs.save_weights(tmp_path / f"{name}.safetensors", weights, CONFIG)
    for other, line in (("b", "I64 and I64: not compared"), ("c", "(3,) and (4,)")):
        ended = command("convert", "a.safetensors", f"{other}.safetensors", "--diff", cwd=tmp_path)
        assert ended == (1, f"{'ids':<26} {line}\n29 tensors, 1 differences\n", "")


def test_diff_ignores_dropout(tmp_path):
    for name, dropout in [("a", 0.0), ("b", 0.1)]:
        model = GPT(GPTConfig(vocab_size=5, block_size=2, n_layer=1, n_head=1, n_embd=2, dropout=dropout))
        save(model, tmp_path / name, "safetensors")
    ended = command("convert", "a", "b", "--diff", cwd=tmp_path)
    assert ended == (0, "config dropout: 0.0 and 0.1 (of training: no difference)\n16 tensors, all equal\n", "")


def test_a_version_in_a_folders_name_is_no_ending(source):
    assert command("convert", "source", "gpt-2.1", cwd=source).code == 0
    assert (source / "gpt-2.1" / "config.json").is_file()


def test_convert_overwrites_nothing(source):
    (source / "a.gguf").write_text("mine")
    (source / "empty").mkdir()
    refused("convert", "source", "a.gguf", cwd=source, words=["a.gguf is there already: name a new file"])
    refused("convert", "source", "empty", cwd=source, words=["empty is there already: name a new file or folder"])
    refused("convert", "source", "source", cwd=source, words=["is there already"])
    refused("convert", "nowhere/at/all", "a.gguf", cwd=source, words=["a.gguf is there already"])  # looked at first


def test_convert_refuses_what_a_format_cannot_store(source):
    dtypes = ["llm.c is written with dtype F32, BF16, not F16"]
    refused("convert", "source", "a.bin", "--dtype", "F16", cwd=source, words=dtypes)
    refused("convert", "source", "a.gguf", "--to", "onnx", cwd=source, words=["--to"])
    refused("convert", "source", cwd=source, words=["DST"])
    refused("convert", "source", "", cwd=source, words=["the name is empty"])
    for name in ("a.pt", "a.safetensor", "pytorch_model.bin"):
        words = [
            f"{name}: files with this ending aren't written",
            "ends in .safetensors, .bin, .gguf, or give --to",
        ]
        refused("convert", "source", name, cwd=source, words=words)
    refused("convert", "nowhere/at/all", "a.gguf", cwd=source)
    refused("convert", "source", "no/such/folder/a.gguf", cwd=source, words=["no/such/folder is not a folder"])
    rotary = with_random_parameters(GPT(GPTConfig(**{**CONFIG.to_dict(), "position": "rotary"})))
    save(rotary, source / "rotary.safetensors", "safetensors")
    for to, ending in ENDINGS.items():
        if to != "safetensors":
            refused("convert", "rotary.safetensors", ending, cwd=source, words=["position", "rotary"])
    assert command("convert", "rotary.safetensors", "a.safetensors", cwd=source).code == 0


def test_a_stopped_convert_leaves_nothing_behind(source, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    before = listing(source)
    for to, ending in ENDINGS.items():
        with monkeypatch.context() as patch:
            patch.setattr("npgpt.checkpoints.shared.lazy_tensor.LazyTensor.iter_flat", stop)
            assert command("convert", "source", ending, cwd=source).code == 130, to
        assert listing(source) == before


def test_convert_says_what_a_format_does_not_keep(tmp_path):
    config = GPTConfig(vocab_size=11, block_size=9, n_layer=1, n_head=2, n_embd=8, dropout=0.1, bias=False)
    save(with_random_parameters(GPT(config)), tmp_path / "a.safetensors", "safetensors")
    ended = command("convert", "a.safetensors", "a.gguf", cwd=tmp_path)
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "gguf doesn't keep dropout = 0.1: it reads as 0.0",
        "gguf doesn't keep bias = False: it reads as True",
    ]


def test_convert_in_a_process_of_its_own(source, model):
    ended = process("convert", "source", "a.safetensors", cwd=source)
    assert (ended.code, ended.err) == (0, "")
    ids = np.arange(9)[None]
    with no_grad():
        np.testing.assert_array_equal(load(source / "a.safetensors")(ids).data, model(ids).data)
    assert "usage: python -m npgpt.convert" in process("convert", "--help", cwd=source).out


@pytest.mark.parametrize("target", ["a.gguf", "folder"])
def test_a_signal_leaves_nothing(source, monkeypatch, target):
    before = listing(source)
    monkeypatch.setattr(os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGTERM))
    assert command("convert", "source", target, cwd=source).code == 143
    assert listing(source) == before
