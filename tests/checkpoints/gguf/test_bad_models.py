"""GGUF files that are not a GPT-2, or not one that npgpt computes; and damaged copies of a good one."""

import re

import numpy as np
import pytest
from helpers import mutations
from helpers.gguf_files import CONFIG, checkpoint_of, f32, file_of, key, keys_of, text, u32

from npgpt import GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.gguf.model import NAMES
from npgpt.checkpoints.gguf.model import write as write_gguf
from npgpt.errors import CheckpointError


def output(seed=0, rows=11) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 32), np.float32)


ARCHITECTURE = "general.architecture"
BAD_MODELS = {
    "no architecture": (file_of({ARCHITECTURE: None}), f"key {ARCHITECTURE} is not there"),
    "llama": (file_of({ARCHITECTURE: text(ARCHITECTURE, "llama")}), f"key {ARCHITECTURE} is 'llama', and npgpt reads"),
    "architecture with a line break": (
        file_of({ARCHITECTURE: text(ARCHITECTURE, "a\n" * 500)}),
        r"is 'a\\na\\n.{,310}$",
    ),
    "architecture a number": (file_of({ARCHITECTURE: u32(ARCHITECTURE, 1)}), f"key {ARCHITECTURE}: string was expec"),
    "one part of three": (file_of({"split": key("split.count", 2, b"\3\0")}), "one part of several .*llama-gguf-split"),
    **{f"no {name}": (file_of({name: None}), f"key {name} is not there") for name in keys_of(CONFIG)},
    **{
        f"{name} of {number}": (file_of({name: u32(name, number)}), f"key {name} must be a whole number of at least 1")
        for name in keys_of(CONFIG)
        if name not in (ARCHITECTURE, "gpt2.attention.layer_norm_epsilon")
        for number in (0, 2**31, 2**32 - 1)
    },
    **{
        f"{name} a float": (file_of({name: f32(name, 2)}), f"key {name}: uint32 was expected, and it is float32")
        for name in keys_of(CONFIG)
        if name not in (ARCHITECTURE, "gpt2.attention.layer_norm_epsilon")
    },
    **{
        f"epsilon of {number}": (
            file_of({"gpt2.attention.layer_norm_epsilon": f32("gpt2.attention.layer_norm_epsilon", number)}),
            "key gpt2.attention.layer_norm_epsilon must be a number between 0 and 1, not",
        )
        for number in (0, -1e-5, 1, float("nan"), float("inf"))
    },
    "heads that don't divide": (
        file_of({"gpt2.attention.head_count": u32("gpt2.attention.head_count", 3)}),
        "key gpt2.embedding_length must be divisible by n_head, and 32 is not divisible by 3",
    ),
    "heads for each layer": (
        file_of({"gpt2.attention.head_count": key("gpt2.attention.head_count", 9, b"\4\0\0\0" + bytes(8))}),
        "key gpt2.attention.head_count: uint32 was expected, and it is array of uint32",
    ),
    "fewer heads for keys": (
        file_of({"kv": u32("gpt2.attention.head_count_kv", 1)}),
        "key gpt2.attention.head_count_kv is 1, and in a GPT-2 of its sizes 2",
    ),
    "wide keys": (file_of({"k": u32("gpt2.attention.key_length", 32)}), "attention.key_length is 32, and .* 16"),
    "narrow values": (file_of({"v": u32("gpt2.attention.value_length", 8)}), "value_length is 8, and .* 16"),
    "not causal": (file_of({"c": key("gpt2.attention.causal", 7, b"\0")}), "attention.causal is False, and .* True"),
    "another vocabulary": (file_of({"v": u32("gpt2.vocab_size", 12)}), "key gpt2.vocab_size is 12, and .* 11"),
    "a layer too few": (file_of({"gpt2.block_count": u32("gpt2.block_count", 1)}), "2 layers in the file, 1 in its"),
    "a giant's layers": (file_of({"gpt2.block_count": u32("gpt2.block_count", 2**30)}), "2 layers in the file, 107374"),
    "a giant's width": (
        file_of({"gpt2.embedding_length": u32("gpt2.embedding_length", 2**30)}),
        "tensor wte.weight must have shape",
    ),
    "no embedding": (file_of(tensors={"token_embd.weight": None}), "tensor 'token_embd.weight' is not there"),
    "no positions": (file_of(tensors={"position_embd.weight": None}), "lacks the tensors 'wpe.weight'"),
    "no bias": (file_of(tensors={"blk.1.ffn_up.bias": None}), "lacks the tensors 'h.1.mlp.c_fc.bias'"),
    "another tensor": (file_of(tensors={"rope_freqs.weight": output()}), "has no place for, 'rope_freqs.weight'"),
    "another layer": (file_of(tensors={"blk.2.ffn_up.bias": output()}), "3 layers in the file, 2 in its configuration"),
    "a layer's number with a zero": (file_of(tensors={"blk.01.ffn_up.bias": output()}), "no place for, 'blk.01.ffn_up"),
    "our name": (
        file_of(tensors={"blk.0.ffn_up.weight": None, "h.0.mlp.c_fc.weight": output(rows=64).T.copy()}),
        "tensor 'h.0.mlp.c_fc.weight' has npgpt's name for it, not the format's",
    ),
    "both names": (file_of(tensors={"wte.weight": output()}), "tensor 'wte.weight' has npgpt's name for it"),
    "a matrix as we have it": (
        file_of(tensors={"blk.0.attn_qkv.weight": np.zeros((32, 96), np.float32)}),
        "c_attn.weight must have shape (32, 96), and has (96, 32): it looks transposed",
    ),
    "a matrix with three axes": (
        file_of(tensors={"blk.0.attn_qkv.weight": np.zeros((96, 32, 1), np.float32)}),
        "tensor blk.0.attn_qkv.weight must be a matrix, and has shape (96, 32, 1)",
    ),
    "a head of another size": (
        file_of(tensors={"output.weight": output(rows=10)}),
        "tensor lm_head.weight must have shape (11, 32), and has (10, 32)",
    ),
    "an embedding without columns": (
        file_of(tensors={"token_embd.weight": np.zeros(11, np.float32)}),
        "tensor wte.weight must have shape (11, 32), and has (11,)",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(tmp_path, case):
    content, place = BAD_MODELS[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with mutations.memory_at_most(len(content)), pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert re.search(place.replace("(", r"\(").replace(")", r"\)"), message), message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))


def test_not_finite_weights(tmp_path):
    (tmp_path / "a").write_bytes(file_of(tensors={"blk.1.ffn_up.bias": np.full(64, np.nan, np.float32)}))
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.bias"):
        load(tmp_path / "a")


def test_mutations_load_or_are_refused(tmp_path):
    """Each damaged file gives a model or a CheckpointError; a model is that of the gguf package's arrays."""
    try:
        import gguf
    except ImportError:
        gguf = None  # then it is only checked that nothing else happens
    config = GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=32, n_inner=32, tie_weights=False)
    path = tmp_path / "model.gguf"
    write_gguf(path, checkpoint_of(config, stored_tokenizer={"name": "char", "characters": "abcd"}), "Q8_0")
    good = path.read_bytes()
    header = range(good.index(b"output_norm.bias") + 100)
    patterns = {theirs.replace("{}", "0"): ours.replace("{}", "0") for theirs, ours, *_ in NAMES}
    refused = 0
    for seed in range(mutations.COUNT):
        path.write_bytes(mutations.mutated(good, seed, header))
        try:
            with np.errstate(all="ignore"):
                model = load(path)
            _ = open_checkpoint(path).tokenizer
        except CheckpointError as error:
            refused += 1
            message = str(error)
            assert message.startswith(str(path)), seed
            assert message.count("\n") < 3, seed
            continue
        weights = model.state_dict()
        for tensor in gguf.GGUFReader(path).tensors if gguf else ():
            found = weights[patterns[tensor.name]]
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            expected = expected.T if found.shape != expected.shape or "blk" in tensor.name else expected
            np.testing.assert_array_equal(found, expected, err_msg=str(seed))
    assert mutations.COUNT // 3 < refused < mutations.COUNT
