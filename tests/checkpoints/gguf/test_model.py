"""GPT-2 in GGUF files: what is written is read as the same model, and what is another model is refused."""

import re

import numpy as np
import pytest
from helpers import mutations
from helpers.gguf_files import CONFIG, arrays_of, checkpoint_of, file_of, open_gguf

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.gguf.model import NAMES
from npgpt.checkpoints.gguf.model import write as write_gguf
from npgpt.checkpoints.shared.blocks import dequantize, quantize
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import CHUNK, LazyTensor, lazy_array
from npgpt.checkpoints.shared.names import to_theirs
from npgpt.errors import CheckpointError

IDS = np.arange(12).reshape(2, 6) % 11


def logits(model: GPT) -> np.ndarray:
    with npgpt.no_grad():
        return model.eval()(IDS).data


def model_of(config: GPTConfig) -> GPT:
    model = GPT.empty(config)
    model.load_state_dict(arrays_of(config))
    return model


# There and back


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_weights": False},
        {"n_inner": None, "layer_norm_epsilon": 1e-3},
        {"bias": False},
        {"qkv_bias": False},
        {"n_embd": 30, "n_inner": 17},
    ],
    ids=str,
)
def test_written_and_read(tmp_path, changes):
    config = GPTConfig(**{**CONFIG.to_dict(), **changes})
    path = tmp_path / "model.bin"
    write_gguf(path, checkpoint_of(config))
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == GPTConfig(**{**config.to_dict(), "bias": True, "qkv_bias": None})
    assert (checkpoint.format, checkpoint.source, checkpoint.ignored_keys) == ("GGUF (F32)", path, ())
    found, expected = npgpt.load(path), model_of(config)
    for name, array in expected.state_dict().items():
        assert found.state_dict()[name].tobytes() == array.tobytes(), name
    assert logits(found).tobytes() == logits(expected).tobytes() or not config.bias
    np.testing.assert_allclose(logits(found), logits(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "n_embd", "tie_weights", "head", "embedding", "inputs"),
    [
        ("F16", 40, False, "F16", "F16", "F16"),
        ("Q8_0", 32, False, "Q8_0", "Q8_0", "Q8_0"),
        ("Q8_0", 40, True, None, "F16", "F16"),
        ("Q4_0", 32, False, "Q8_0", "Q4_0", "Q4_0"),
        ("Q4_0", 32, True, None, "Q8_0", "Q4_0"),
        ("Q4_0", 256, False, "Q6_K", "Q4_0", "Q4_0"),
        ("Q4_0", 256, True, None, "Q6_K", "Q4_0"),
        ("Q4_0", 40, True, None, "F16", "F16"),
    ],
)
def test_smaller_types(tmp_path, dtype, n_embd, tie_weights, head, embedding, inputs):
    """inputs: of matrices whose rows, in llama.cpp, have n_embd elements. Those of mlp.c_proj have 64."""
    config = GPTConfig(**{**CONFIG.to_dict(), "n_embd": n_embd, "tie_weights": tie_weights})
    write_gguf(tmp_path / "a", checkpoint_of(config), dtype)
    found = open_checkpoint(tmp_path / "a")
    for name, array in arrays_of(config).items():
        tensor = found.tensors[name]
        if array.ndim == 1 or name == "wpe.weight":
            wanted = "F32"
        elif name in ("wte.weight", "lm_head.weight"):
            wanted = embedding if name == "wte.weight" else head
        else:
            wanted = dtype if "mlp.c_proj" in name else inputs
        assert tensor.dtype == wanted, name
        expected = array if wanted == "F32" else array.astype(np.float16)
        if wanted[0] == "Q":  # blocks lie along the inputs
            expected = dequantize(quantize(array.T if tensor.transposed else array, wanted), wanted)
            expected = expected.T if tensor.transposed else expected
        np.testing.assert_array_equal(tensor.numpy(), expected, err_msg=name)
    assert found.format == f"GGUF ({', '.join(sorted({'F32', dtype, embedding, inputs} | {head} - {None}))})"
    load(tmp_path / "a")


@pytest.mark.parametrize(("dtype", "number"), [("F32", 0), ("F16", 1), ("Q8_0", 7), ("Q4_0", 2)])
def test_the_type_of_the_file_is_llama_cpps_number(tmp_path, dtype, number):
    write_gguf(tmp_path / "a", checkpoint_of(CONFIG), dtype)
    assert open_gguf(tmp_path / "a")[1].number("general.file_type", "uint32") == number


@pytest.mark.parametrize("embedding", ["Q4_0", "Q8_0"])
def test_a_q4_0_file_whose_embedding_has_another_type(tmp_path, embedding):
    """As llama-quantize makes it with --pure, or with --token-embedding-type q8_0."""
    config = GPTConfig(**{**CONFIG.to_dict(), "n_embd": 256})
    wte = dequantize(quantize(arrays_of(config)["wte.weight"], embedding), embedding)
    (tmp_path / "a").write_bytes(file_of(tensors={"token_embd.weight": (wte, embedding)}, config=config))
    found = open_checkpoint(tmp_path / "a")
    assert found.tensors["wte.weight"].dtype == embedding
    np.testing.assert_array_equal(found.tensors["wte.weight"].numpy(), wte)
    load(tmp_path / "a")


def test_the_same_bytes_every_time(tmp_path):
    write_gguf(tmp_path / "a.gguf", checkpoint_of(CONFIG), "Q8_0")
    first = (tmp_path / "a.gguf").read_bytes()
    checkpoint = checkpoint_of(CONFIG)
    shuffled = dict(sorted(checkpoint.tensors.items()))
    write_gguf(tmp_path / "a.gguf", Checkpoint("", CONFIG, shuffled, "memory"), "Q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == first
    # A file that is read from can be replaced.
    write_gguf(tmp_path / "a.gguf", open_checkpoint(tmp_path / "a.gguf"), "Q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == first


def test_the_names_are_those_of_the_gguf_package():
    gguf = pytest.importorskip("gguf", reason="compares with the gguf package, which is not installed")
    stems = {gguf.TENSOR_NAMES[tensor].format(bid="{}") for tensor in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.GPT2]}
    assert {theirs.rsplit(".", 1)[0] for theirs, *_ in NAMES} == stems


def test_matrices_are_turned():
    """Not the embeddings, whose rows are looked up: (V, C) and (T, C) in llama.cpp, too."""
    ours = arrays_of(CONFIG)
    theirs = to_theirs(NAMES, {name: lazy_array(array) for name, array in ours.items()})
    assert [name for name, t in theirs.items() if t.transposed and name.startswith("blk.1.")] == [
        f"blk.1.{stem}.weight" for stem in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    ]
    assert theirs["blk.1.attn_qkv.weight"].shape == (96, 32)
    np.testing.assert_array_equal(theirs["blk.1.attn_output.weight"].numpy(), ours["h.1.attn.c_proj.weight"].T)


def test_reading_takes_little_memory(tmp_path):
    rows = 8 * CHUNK // 1024
    tensor = LazyTensor((rows, 1024), "F32", lambda first, last: np.ones((last - first, 1024), np.float32))
    config = GPTConfig(vocab_size=rows, block_size=1, n_layer=1, n_head=1, n_embd=1024, n_inner=1)
    checkpoint = checkpoint_of(config)
    checkpoint.tensors["wte.weight"] = tensor
    write_gguf(tmp_path / "a", checkpoint, "Q8_0")
    out = np.empty(tensor.shape, np.float32)
    found = open_checkpoint(tmp_path / "a").tensors["wte.weight"]
    with mutations.memory_at_most(-16 << 20):  # 16 MB: a piece is one of 4, in float32, and a few are in between
        found.copy_to(out)
    assert found.dtype == "Q8_0"
    assert (out == out[0, 0]).all()


# What can't be written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "rotary"}, "position is rotary, and llama.cpp has only learned"),
        ({"activation": "gelu"}, "activation is gelu, and llama.cpp has only gelu_new"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, and llama.cpp"),
        ({"layer_norm_epsilon": 1e-60}, "layer_norm_epsilon is 1e-60, which is 0 in float32"),
    ],
    ids=str,
)
def test_models_that_llama_cpp_does_not_compute(tmp_path, changes, message):
    config = GPTConfig(**{**CONFIG.to_dict(), **changes})
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'a'}: {message}")):
        write_gguf(tmp_path / "a", checkpoint_of(config))
    assert list(tmp_path.iterdir()) == []


# Files of others


def test_a_file_of_someone_else(tmp_path):
    (tmp_path / "a").write_bytes(file_of())
    assert open_checkpoint(tmp_path / "a").config == CONFIG
    assert logits(load(tmp_path / "a")).tobytes() == logits(model_of(CONFIG)).tobytes()


def test_a_head_that_is_the_embedding_once_more(tmp_path):
    wte = arrays_of(CONFIG)["wte.weight"]
    (tmp_path / "a").write_bytes(file_of(tensors={"output.weight": wte}))
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.config == CONFIG
    assert checkpoint.ignored_keys == ("output.weight",)
    (tmp_path / "a").write_bytes(file_of(tensors={"output.weight": wte.astype(np.float16)}))
    checkpoint = open_checkpoint(tmp_path / "a")
    assert not checkpoint.config.tie_weights
    assert checkpoint.ignored_keys == ()
    np.testing.assert_array_equal(checkpoint.tensors["lm_head.weight"].numpy(), wte.astype(np.float16))
