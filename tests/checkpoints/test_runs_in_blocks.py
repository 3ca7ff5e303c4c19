"""Our files with matrices in blocks: the weights that Decoder makes of them, and the commands."""

import re

import numpy as np
import pytest
from helpers.commands import command, refused
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig, load
from npgpt.checkpoints import open_checkpoint, save
from npgpt.generation import Decoder
from npgpt.kernels.packed import PackedMatrix
from npgpt.text.tokenizers import ByteTokenizer

CONFIG = GPTConfig(vocab_size=257, block_size=16, n_layer=2, n_head=2, n_embd=32)
PACKED = {"Q8_0": "int8", "Q4_0": "int4"}
each_type = pytest.mark.parametrize("dtype", PACKED)


def model_of(**changes) -> GPT:
    return with_random_parameters(GPT(GPTConfig(**{**CONFIG.to_dict(), **changes})))


@pytest.fixture
def work(tmp_path):
    """A folder with a model in float32 and in both types."""
    for dtype in ("F32", *PACKED):
        save(model_of(), tmp_path / f"{dtype}.safetensors", "safetensors", dtype, ByteTokenizer())
    return tmp_path


@each_type
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_weights": False}, {"n_embd": 40, "n_inner": 50, "bias": False}, {"position": "rotary", "n_embd": 8}],
    ids=str,
)
def test_the_decoder_makes_the_same_weights_of_it(tmp_path, dtype, changes):
    """To the bit, and also where rows are no whole blocks of 32: both fill them up with zeros."""
    model = model_of(**changes)
    save(model, tmp_path / "a", "safetensors", dtype)
    loaded = load(tmp_path / "a")
    found, expected = (Decoder(m, PACKED[dtype]) for m in (loaded, model))
    assert found.config == expected.config
    pairs = list(zip(found.named_arrays(), expected.named_arrays(), strict=True))
    wte, expected_wte = found.model.wte.head, expected.model.wte.head  # not among them if it isn't the head
    assert isinstance(wte, PackedMatrix)
    pairs += [(("wte", wte.weights), ("wte", expected_wte.weights)), (("d", wte.scales), ("d", expected_wte.scales))]
    for (name, array), (expected_name, expected_array) in pairs:
        assert (name, array.dtype, array.tobytes()) == (expected_name, expected_array.dtype, expected_array.tobytes())
    assert any((array != model.state_dict()[name]).any() for name, array in loaded.state_dict().items())


@each_type
def test_what_is_in_blocks(tmp_path, dtype):
    """All matrices but the positions; c_attn's lie along its inputs, the embedding's along its rows."""
    model = model_of(tie_weights=False)
    save(model, tmp_path / "a", "safetensors", dtype)
    checkpoint = open_checkpoint(tmp_path / "a")
    for name, array in model.state_dict().items():
        tensor = checkpoint.tensors[name]
        in_blocks = array.ndim == 2 and name != "wpe.weight"
        assert tensor.dtype == (dtype if in_blocks else "F32"), name
        assert tensor.transposed == (name.startswith("h.") and array.ndim == 2), name
        if not in_blocks:
            np.testing.assert_array_equal(tensor.numpy(), array)


@each_type
def test_written_again_it_is_the_same_file(tmp_path, work, dtype):
    """From itself, and from lossless copies in other formats, whose tensors are in another order."""
    name = f"{dtype}.safetensors"
    for step in ("huggingface", "gguf"):
        assert command("convert", name, step, "--to", step, cwd=work).code == 0
        ended = command("convert", name, step, "--diff", cwd=work)
        assert ended == (0, "28 tensors, all equal\n", "")
    for i, source in enumerate([name, "huggingface", "gguf"]):
        ended = command("convert", source, f"{i}.safetensors", "--dtype", dtype, cwd=work)
        assert ended.code == 0
        assert f"(safetensors, {dtype})" in ended.out
        assert (work / f"{i}.safetensors").read_bytes() == (work / name).read_bytes()


def test_sizes(work):
    """8.5 and 4.5 bits an element of the matrices."""
    arrays = model_of().state_dict()
    matrices = sum(array.size for name, array in arrays.items() if array.ndim == 2 and name != "wpe.weight")
    sizes = {name: (work / f"{name}.safetensors").stat().st_size for name in ("F32", *PACKED)}
    for dtype, bits in (("Q8_0", 8.5), ("Q4_0", 4.5)):
        saved = sizes["F32"] - sizes[dtype]
        assert 0 <= matrices * (32 - bits) / 8 - saved < 1000  # the metadata


def test_sampling_from_it_is_sampling_from_the_original(work):
    options = ("--prompt", "ab", "--greedy", "--max-new-tokens", 8, "--weights", "int8", "--model")
    texts = [command("sample", *options, f"{name}.safetensors", cwd=work) for name in ("F32", "Q8_0")]
    assert texts[0].code == 0
    assert texts[0].out == texts[1].out


def test_info_shows_the_types(work):
    for dtype in PACKED:
        ended = command("info", f"{dtype}.safetensors", cwd=work)
        assert ended.code == 0
        assert "no warnings" in ended.out
        rows = dict(re.findall(r"^  (\S+) +\d+(?: x \d+)? +([FQ]\w+) ", ended.out, re.MULTILINE))
        assert len(rows) == 28
        linear = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        expected = {"wte.weight", *(f"h.{i}.{part}.weight" for i in (0, 1) for part in linear)}
        assert {name for name, found in rows.items() if found == dtype} == expected
        assert max(map(len, ended.out.splitlines())) <= 80


def test_diff_says_what_blocks_cost(work):
    ended = command("convert", "F32.safetensors", "Q4_0.safetensors", "--diff", cwd=work)
    assert ended.code == 1
    assert ended.out.endswith("28 tensors, 9 differences\n")
    relative = [float(x) for x in re.findall(r"weight +differs by up to .*, (\S+) of its norm", ended.out)]
    assert len(relative) == 9
    assert all(0.02 < x < 0.12 for x in relative)


def test_what_has_no_place_in_blocks_is_refused(tmp_path):
    model = model_of()
    model.h[1].mlp.c_fc.weight.data[3, 4] = 1e9
    save(model, tmp_path / "a.safetensors", "safetensors")
    words = [r"b.safetensors: tensor h.1.mlp.c_fc.weight: a number too large for Q8_0"]
    refused("convert", "a.safetensors", "b.safetensors", "--dtype", "Q8_0", cwd=tmp_path, words=words)
    assert not (tmp_path / "b.safetensors").exists()


def test_a_block_that_is_damaged_is_refused(work):
    data = bytearray((work / "Q8_0.safetensors").read_bytes())
    data[-34:-32] = b"\xff\x7f"  # the last block's scale: NaN
    (work / "bad.safetensors").write_bytes(data)
    refused("sample", "--model", "bad.safetensors", cwd=work, words=["NaN or infinity in 'wte.weight'"])
