"""A lone file of a run: its tokenizer and state are in its metadata, of which nothing is believed."""

import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.models import as_checkpoint

from npgpt.checkpoints import load, open_checkpoint, runs
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import GPT
from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=1, n_head=2, n_embd=8, n_inner=24, tie_weights=False)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tokenizer", [CharTokenizer("\0aé😀"), ByteTokenizer(), GPT2Tokenizer()])
def test_a_lone_file(tmp_path, dtype, tokenizer):
    config = GPTConfig(tokenizer.vocab_size + 3, 6, 1, 2, 8, 24, tie_weights=False, bias=False, position="rotary")
    model = GPT(config, seed=0)
    path = tmp_path / "a.bin"
    runs.write(path, as_checkpoint(model, tokenizer), dtype)
    read = open_checkpoint(path)
    assert (read.config, read.tokenizer.to_dict()) == (config, tokenizer.to_dict())
    for name, array in model.state_dict().items():
        assert read.tensors[name].dtype == dtype
        expected = (
            bf16_to_f32(f32_to_bf16(array)) if dtype == "BF16" else array.astype({"F32": "f4", "F16": "f2"}[dtype])
        )
        np.testing.assert_array_equal(read.tensors[name].numpy(), expected)
    again = tmp_path / "b.bin"
    runs.write(again, read, dtype)
    assert again.read_bytes() == path.read_bytes()
    assert load(path).config == config


def test_the_tokenizer_in_the_file_comes_before_the_one_beside_it(tmp_path):
    config = GPTConfig(257, 6, 1, 2, 8)
    model = GPT(config, seed=0)
    write_json(tmp_path / "tokenizer.json", ByteTokenizer().to_dict())
    runs.save_weights(tmp_path / "a", model.state_dict(), config)
    assert open_checkpoint(tmp_path / "a").tokenizer.name == "byte"
    runs.write(tmp_path / "b", as_checkpoint(model, CharTokenizer("ab")))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')  # as transformers has it
    assert open_checkpoint(tmp_path / "b").tokenizer.characters == "ab"


def test_a_tokenizer_that_is_unknown_stays_so(tmp_path):
    config = GPTConfig(50257, 2, 1, 1, 2)
    checkpoint = as_checkpoint(GPT.empty(config))
    runs.write(tmp_path / "a", checkpoint)
    assert open_checkpoint(tmp_path / "a").tokenizer.name == "gpt2"  # as that of the checkpoint itself
    runs.write(tmp_path / "a", replace(checkpoint, find_tokenizer=lambda: None))
    assert open_checkpoint(tmp_path / "a").tokenizer is None
    with pytest.raises(CheckpointError, match=r"a: no tokenizer is known for its vocabulary of 50,257 ids:\nput one"):
        open_checkpoint(tmp_path / "a").require_tokenizer()


def test_a_lone_file_that_can_not_be_written(tmp_path):
    checkpoint = as_checkpoint(GPT(CONFIG, seed=0), CharTokenizer("ab"))
    with pytest.raises(CheckpointError, match="none/a: can't be written: No such file"):
        runs.write(tmp_path / "none" / "a", checkpoint)
    checkpoint.tensors["wte.weight"] = lazy_array(np.full((11, 8), 1e5))
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(tmp_path / 'a'))}: tensor wte.weight: 100000 is too l"):
        runs.write(tmp_path / "a", checkpoint, "F16")
    assert list(tmp_path.iterdir()) == []


BAD_TOKENIZERS = {
    "cut off": ('{"name": "byte"', r": __metadata__ npgpt_tokenizer: not JSON at character"),
    "a list": ("[]", r": __metadata__ npgpt_tokenizer: a JSON object was expected"),
    "name twice": (
        '{"name": "byte", "name": "gpt2"}',
        r": __metadata__ npgpt_tokenizer: the key 'name' is there twice",
    ),
    "name a list": ('{"name": ["char"]}', ": a stored tokenizer must be a JSON object whose name is one of"),
    "more": ('{"name": "byte", "x": 1}', ": a stored byte tokenizer must have exactly name"),
    "characters unsorted": ('{"name": "char", "characters": "ba"}', ": the characters .* must be sorted"),
    "too many": (
        '{"name": "char", "characters": "abcdefghijk"}',
        ": its tokenizer has 12 ids, and the model 11",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENIZERS)
def test_bad_tokenizers_in_the_metadata(tmp_path, case):
    text, place = BAD_TOKENIZERS[case]
    path = tmp_path / "a"
    runs.save_weights(path, GPT(CONFIG, seed=0).state_dict(), CONFIG, {"npgpt_tokenizer": text})
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}{place}") as caught:
        _ = open_checkpoint(path).tokenizer
    assert len(str(caught.value)) < 300 + len(str(path))


BAD_METADATA = {
    "config not JSON": ({"npgpt_config": "{"}, "__metadata__ npgpt_config: not JSON at character 1"),
    "config a list": ({"npgpt_config": "[]"}, "__metadata__ npgpt_config: a JSON object was expected"),
    "config bad": ({"npgpt_config": '{"n_layer": 0}'}, "__metadata__ npgpt_config: n_layer must be a whole number"),
    "no config": ({}, "the number of heads is unknown"),
}
BAD_STATES = {
    "state a list": ({"npgpt_state": "[]"}, "__metadata__ npgpt_state: a JSON object was expected"),
    "state with NaN": ({"npgpt_state": '{"a": NaN}'}, "__metadata__ npgpt_state: NaN"),
    "no state": ({}, "__metadata__ has no npgpt_state"),
}


@pytest.mark.parametrize("case", [*BAD_METADATA, *BAD_STATES])
def test_bad_metadata(tmp_path, case):
    read = open_checkpoint if case in BAD_METADATA else runs.load_checkpoint
    metadata, place = (BAD_METADATA | BAD_STATES)[case]
    path = tmp_path / "last.safetensors"
    write_safetensors(
        path, {"wte.weight": np.zeros((11, 8), np.float32), "ln_f.bias": np.zeros(8, np.float32)}, metadata
    )
    with pytest.raises(CheckpointError, match=place) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
