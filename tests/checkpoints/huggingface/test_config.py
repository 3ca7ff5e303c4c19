"""Folders as transformers writes them, and as it does not."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from npgpt.checkpoints.huggingface.config import _FIELDS, config_from_huggingface
from npgpt.checkpoints.huggingface.read import read_folder
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, CheckpointWarning

REASON = "compares with transformers and torch, which are not installed"

# The config.json of the released gpt2, as it is on the Hugging Face hub.
RELEASED = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
TINY = {**RELEASED, "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 6, "n_ctx": 6, "vocab_size": 11}


def parameters(prefix: str = "", config: dict = TINY) -> dict[str, np.ndarray]:
    """Random parameters under their stored names."""
    C, V, T = config["n_embd"], config["vocab_size"], config["n_positions"]
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for layer in range(config["n_layer"]):
        for name, inside, outside in [("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C)]:
            shapes |= {f"h.{layer}.{name}.weight": (inside, outside), f"h.{layer}.{name}.bias": (outside,)}
        shapes |= {f"h.{layer}.mlp.c_proj.weight": (4 * C, C), f"h.{layer}.mlp.c_proj.bias": (C,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{name}.weight": (C,), f"h.{layer}.{name}.bias": (C,)}
    rng = np.random.default_rng(0)
    return {prefix + name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def read(folder):
    """-> config, arrays"""
    checkpoint = read_folder(folder)
    return checkpoint.config, {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}


def write_folder(folder: Path, config: dict, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


# config.json


def test_the_released_configuration():
    assert config_from_huggingface(RELEASED, "x") == GPTConfig(dropout=0.1)


def test_missing_keys_take_the_defaults_of_transformers():
    assert config_from_huggingface({"model_type": "gpt2"}, "x") == GPTConfig(dropout=0.1)


def test_of_dropouts_that_differ_the_largest_is_taken():
    with pytest.warns(
        CheckpointWarning, match=r"c: resid_pdrop = 0\.1, embd_pdrop = 0\.1, attn_pdrop = 0\.3: npgpt has"
    ):
        assert config_from_huggingface({**RELEASED, "attn_pdrop": 0.3}, "c").dropout == 0.3


def test_of_dropouts_that_differ_one_has_400_digits():
    with (
        pytest.warns(
            CheckpointWarning, match=r"resid_pdrop = 10+\.\.\.0+, embd_pdrop = 0\.1, attn_pdrop = 0\.1: npgpt"
        ),
        pytest.raises(CheckpointError, match="resid_pdrop must be a number"),
    ):
        config_from_huggingface({**RELEASED, "resid_pdrop": 10**400}, "c")


def test_other_spellings():
    values = {key: value for key, value in TINY.items() if key not in ("n_embd", "n_head", "n_layer", "n_positions")}
    assert config_from_huggingface(values, "x").block_size == 6  # n_ctx
    values |= {"hidden_size": 8, "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 7}
    config = config_from_huggingface(values, "x")
    assert (config.n_embd, config.n_head, config.n_layer, config.block_size) == (8, 4, 3, 7)
    assert config_from_huggingface({**TINY, "n_ctx": 3, "hidden_size": 8}, "x").block_size == 6
    for name, activation in (("gelu_pytorch_tanh", "gelu_new"), ("gelu", "gelu"), ("relu", "relu")):
        assert config_from_huggingface({**TINY, "activation_function": name}, "x").activation == activation


BAD_CONFIGS = {
    "another model": ({"model_type": "llama"}, "model_type is 'llama', and npgpt computes only 'gpt2'"),
    "model_type a list": ({"model_type": ["gpt2"]}, "model_type is \\['gpt2'\\]"),
    "scale 1": ({"scale_attn_weights": 1}, "scale_attn_weights is 1, and npgpt computes only True"),
    "quantised": ({"quantization_config": {"load_in_8bit": True}}, "quantization_config is {'load_in_8bit': True}"),
    "activation long": ({"activation_function": "x" * 10**5}, "activation_function is 'xxxxxx"),
    "dropouts differ, one is text": ({"attn_pdrop": 0.0, "resid_pdrop": "0"}, "resid_pdrop must be a number"),
    "dropout text": (dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), "0"), "resid_pdrop must be a number"),
    "dropout of 400 digits": (
        dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 10**400),
        "resid_pdrop must be",
    ),
    "heads do not divide": ({"n_head": 3}, "n_embd must be divisible by n_head: 8 is not divisible by 3"),
    "heads disagree": ({"num_attention_heads": 4}, "n_head and num_attention_heads mean the same"),
    "layers a list": ({"n_layer": [1] * 10**5}, "n_layer must be a whole number of at least 1, not \\[1, 1"),
    "width huge": ({"n_embd": 2**40}, "n_embd must be a whole number"),
    "tie 1": ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs(tmp_path, case):
    changes, place = BAD_CONFIGS[case]
    folder = write_folder(tmp_path / "model", {**TINY, **changes}, parameters())
    with pytest.raises(CheckpointError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert re.search(place, message), message
    assert len(message) < 400 + len(str(folder))


BAD_TEXTS = {
    "cut off": ('{"model_type": "gpt2", "n_layer": 1', "not JSON at character"),
    "list": ("[]", "a JSON object was expected, not list"),
    "nothing of a GPT-2": ("{}", "neither model_type nor n_embd is there"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_config_texts(tmp_path, case):
    text, place = BAD_TEXTS[case]
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=place) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")


# model.safetensors


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_buffers_are_skipped_and_biases_are_not(tmp_path, prefix):
    mask = np.tril(np.ones((1, 1, 6, 6), np.uint8))
    buffers = {f"{prefix}h.0.attn.bias": mask, f"{prefix}h.0.attn.masked_bias": np.float32(-1e4)}
    folder = write_folder(tmp_path / "model", TINY, parameters(prefix) | buffers)
    assert_same(read(folder)[1], parameters())


def test_a_tied_head_that_is_stored_is_dropped(tmp_path):
    arrays = parameters("transformer.")
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"].copy()
    config, found = read(write_folder(tmp_path / "model", TINY, arrays))
    assert config.tie_weights
    assert_same(found, parameters())


@pytest.mark.parametrize("head", [np.zeros((11, 8), np.float32), np.zeros((3, 8), np.float32)])
def test_a_tied_head_that_differs_is_refused(tmp_path, head):
    folder = write_folder(tmp_path / "model", TINY, {**parameters(), "lm_head.weight": head})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'lm_head.weight' differs from 'wte.weight'"):
        read_folder(folder)


@pytest.mark.parametrize("shape", [(), (0,), (2**40, 0)])
def test_tied_heads_of_odd_shapes(tmp_path, shape):
    """They are compared like others (never row by row: one of these has a million million rows)."""
    odd = dict.fromkeys(("lm_head.weight", "wte.weight"), np.zeros(shape, np.float32))
    folder = write_folder(tmp_path / "model", TINY, parameters() | odd)
    assert "lm_head.weight" not in read(folder)[1]


def test_an_untied_head_is_kept(tmp_path):
    arrays = {**parameters(), "lm_head.weight": np.ones((11, 8), np.float32)}
    folder = write_folder(tmp_path / "model", {**TINY, "tie_word_embeddings": False}, arrays)
    config, found = read(folder)
    assert not config.tie_weights
    assert_same(found, arrays)


def test_a_name_with_and_without_prefix_is_refused(tmp_path):
    arrays = {**parameters(), "transformer.wte.weight": np.zeros((11, 8), np.float32)}
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'wte.weight' is there twice"):
        read(write_folder(tmp_path / "model", TINY, arrays))


# Against transformers


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_transformers_saves(tmp_path, tied, with_head, dtype):
    torch = pytest.importorskip("torch", reason=REASON)
    transformers = pytest.importorskip("transformers", reason=REASON)
    theirs = transformers.GPT2Config(
        vocab_size=13, n_positions=7, n_embd=12, n_layer=2, n_head=3, n_inner=20, tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    make = transformers.GPT2LMHeadModel if with_head else transformers.GPT2Model  # the second saves without the prefix
    model = make(theirs).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    config, arrays = read(tmp_path)
    assert config == GPTConfig(13, 7, 2, 3, 12, 20, dropout=0.1, tie_weights=tied)
    expected = {}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not tied:
            tensor = tensor.float() if dtype == "bfloat16" else tensor
            expected[name.removeprefix("transformer.")] = tensor.numpy()
    assert_same(arrays, expected)


def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers", reason=REASON)
    theirs = transformers.GPT2Config()
    assert [default for _, _, default in _FIELDS] == [getattr(theirs, key) for _, key, _ in _FIELDS]
    assert config_from_huggingface(theirs.to_dict(), "x") == config_from_huggingface({"model_type": "gpt2"}, "x")


def test_every_setting_that_transformers_computes_with_is_known():
    """Settings are found where modeling_gpt2.py reads them; each is mapped, required, or listed here as harmless."""
    pytest.importorskip("torch", reason=REASON)
    pytest.importorskip("transformers", reason=REASON)
    from transformers.models.gpt2 import modeling_gpt2

    from npgpt.checkpoints.huggingface.config import _DROPOUTS, _REQUIRED, _SYNONYMS

    known = {key for _, key, _ in _FIELDS} | {"activation_function", *_DROPOUTS, *_REQUIRED, *_SYNONYMS.values()}
    same_result = {"_attn_implementation", "use_cache", "initializer_range", "reorder_and_upcast_attn"}
    other_heads = {"num_labels", "problem_type", "pad_token_id", "classifier_dropout", "hidden_dropout"}
    read = set(re.findall(r"\bconfig\.(\w+)", Path(modeling_gpt2.__file__).read_text()))
    read = {name for name in read if not name.startswith("summary_")}  # of GPT2DoubleHeadsModel
    assert "n_inner" in read
    assert read - known - same_result - other_heads == set()
