"""llama.cpp runs what we write, and computes what we compute; what it quantises, we read."""

import ctypes

import numpy as np
import pytest
from conftest import ROOT
from helpers.gguf_files import checkpoint_of
from helpers.models import with_random_parameters

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.gguf.model import write as write_gguf
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.text.tokenizers import GPT2Tokenizer, tokenizer_from_dict

llama_cpp = pytest.importorskip("llama_cpp", reason="runs llama-cpp-python, which is not installed")

SIZES = {"block_size": 256, "n_layer": 2, "n_head": 2, "n_embd": 256}  # whole blocks of every type
BYTE = {"name": "byte"}
PROMPT = list(b"Ich bin ")
# Of logits around 1. llama.cpp rounds GELU, keys and values to float16; next to Q8_0 and Q4_0, activations to 8 bits.
TOLERANCES = {"F32": 0.01, "F16": 0.01, "Q8_0": 0.15, "Q4_0": 0.15}


def llama(path):
    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False)


def write(path, config, tokenizer, dtype="F32"):
    model = with_random_parameters(GPT.empty(config))
    tensors = {name: lazy_array(array) for name, array in model.state_dict().items()}
    checkpoint = Checkpoint(
        "", config, tensors, "memory", find_tokenizer=lambda: tokenizer and tokenizer_from_dict(tokenizer)
    )
    write_gguf(path, checkpoint, dtype)


def assert_same_results(path, tolerance):
    """Logits, and the greedy continuation of PROMPT: at each place our token is the best one there too, or as good."""
    model = load(path)
    ours = model.generate(np.array([PROMPT]), max_new_tokens=24, temperature=0)[0].tolist()
    with npgpt.no_grad():
        expected = model(np.array([ours])).data[0]
    theirs = llama(path)
    theirs.eval(ours)
    found = np.array(theirs.scores[: len(ours)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    best = expected.argmax(-1)
    assert (found.max(-1) - found[np.arange(len(best)), best] <= 2 * tolerance).all()
    tokens = theirs.generate(PROMPT, temp=0, reset=True)
    return ours, PROMPT + [next(tokens) for _ in range(24)]


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_weights": False, "n_inner": 96, "bias": False}, {"n_embd": 40, "layer_norm_epsilon": 1e-2}],
    ids=str,
)
def test_llama_cpp_runs_what_we_write(tmp_path, dtype, changes):
    path = tmp_path / "a.gguf"
    write(path, GPTConfig(vocab_size=257, **SIZES | changes), BYTE, dtype)
    ours, theirs = assert_same_results(path, TOLERANCES[dtype])
    assert dtype[0] == "Q" or ours == theirs


@pytest.mark.parametrize("rows", [257, 300])
def test_bytes(tmp_path, rows):
    write(tmp_path / "a", GPTConfig(vocab_size=rows, **SIZES), BYTE)
    theirs = llama(tmp_path / "a")
    text = "naïve\r\n café  \t日本 it's 🙂\x00!".encode()
    assert theirs.tokenize(text, add_bos=False) == list(text)
    assert theirs.detokenize(list(text)) == text
    assert theirs.token_eos() == theirs.token_bos() == 256
    assert theirs.n_vocab() == rows


def test_characters(tmp_path):
    characters = "\n !'abcdefghijklmnopqrstuvwxyz"
    write(tmp_path / "a", GPTConfig(vocab_size=31, **SIZES), {"name": "char", "characters": characters})
    theirs = llama(tmp_path / "a")
    text = "it's  all\n\nwritten down !"
    assert theirs.tokenize(text.encode(), add_bos=False) == [characters.index(c) for c in text]
    assert theirs.detokenize([characters.index(c) for c in text]) == text.encode()
    assert theirs.token_eos() == 30


@pytest.mark.parametrize("tokenizer", [None, {"name": "char", "characters": "abcdé"}])
def test_a_tokenizer_that_llama_cpp_does_not_have(tmp_path, tokenizer):
    config = GPTConfig(vocab_size=6, **SIZES)
    write(tmp_path / "a", config, tokenizer)
    theirs = llama(tmp_path / "a")
    assert theirs.n_vocab() == 6
    theirs.eval([0, 1, 2])
    with npgpt.no_grad():
        expected = load(tmp_path / "a")(np.array([[0, 1, 2]])).data[0]
    np.testing.assert_allclose(theirs.scores[:3], expected, rtol=0, atol=TOLERANCES["F32"])


@pytest.mark.parametrize("rows", [50257, 50304])
def test_gpt2s_tokens(tmp_path, rows):
    config = GPTConfig(vocab_size=rows, block_size=256, n_layer=1, n_head=1, n_embd=4)
    write_gguf(tmp_path / "a", checkpoint_of(config, find_tokenizer=GPT2Tokenizer))
    theirs = llama(tmp_path / "a")
    text = (ROOT / "data" / "the-verdict.txt").read_text(encoding="utf-8") + "  naïve\n\n\t日本 we'll 🙂 1234"
    ids = GPT2Tokenizer().encode(text).tolist()
    assert theirs.tokenize(text.encode(), add_bos=False) == ids
    assert theirs.detokenize(ids) == text.encode()
    assert theirs.token_eos() == 50256


@pytest.mark.parametrize(("dtype", "file_type", "embedding"), [("Q8_0", 7, "Q8_0"), ("Q4_0", 2, "Q6_K")])
def test_what_llama_cpp_quantises(tmp_path, dtype, file_type, embedding):
    write(tmp_path / "a", GPTConfig(vocab_size=257, **SIZES), BYTE)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = file_type, 1
    paths = (str(tmp_path / name).encode() for name in "ab")
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings)) == 0
    checkpoint = open_checkpoint(tmp_path / "b")
    assert checkpoint.tensors["wte.weight"].dtype == embedding
    assert checkpoint.tensors["h.0.mlp.c_fc.weight"].dtype == dtype
    assert checkpoint.tokenizer.to_dict() == BYTE
    assert_same_results(tmp_path / "b", TOLERANCES[dtype])
    # and we quantise to the same bits; in Q6_K nearly always, for C compilers may fuse a product with a sum
    write_gguf(tmp_path / "c", open_checkpoint(tmp_path / "a"), dtype)
    for name, tensor in open_checkpoint(tmp_path / "c").tensors.items():
        assert tensor.dtype == checkpoint.tensors[name].dtype, name
        ours, theirs = tensor.numpy(), checkpoint.tensors[name].numpy()
        nearly = tensor.dtype == "Q6_K" and ours.shape == theirs.shape and (ours == theirs).mean() > 0.99
        assert ours.tobytes() == theirs.tobytes() or nearly, name
