"""pytorch_model.bin in folders, in one file and in shards; and files of weights without their folder."""

import json
import shutil
import struct

import numpy as np
import pytest
from helpers.torch_bytes import dict_, int_, legacy_file, storage, tensor, zip_file

import npgpt
from checkpoints.huggingface.test_config import TINY, assert_same, parameters, write_folder
from npgpt import GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.config import PRESETS
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes
from npgpt.text.tokenizers import CharTokenizer

FORMS = ["zip", "legacy"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="compares with torch, which is not installed")


def save(torch, arrays: dict[str, np.ndarray], path, form="zip"):
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")


def arrays_at(path):
    return {name: tensor.numpy() for name, tensor in open_checkpoint(path).tensors.items()}


# Folders


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_pytorch_model_bin(tmp_path, torch, form, prefix):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    masks = {f"{prefix}h.0.attn.bias": np.tril(np.ones((1, 1, 6, 6), np.uint8))}
    save(torch, parameters(prefix) | masks, tmp_path / "pytorch_model.bin", form)
    assert_same(arrays_at(tmp_path), parameters())
    opened = open_checkpoint(tmp_path)
    assert opened.format == "Hugging Face folder (PyTorch)"
    assert opened.source == tmp_path / "pytorch_model.bin"
    assert opened.ignored_keys == (f"{prefix}h.0.attn.bias",)


def test_shards(tmp_path, torch):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    arrays, places = parameters("transformer."), {}
    for i, name in enumerate(arrays):
        places[name] = f"pytorch_model-0000{1 + i % 3}-of-00003.bin"
    for file in sorted(set(places.values())):
        save(torch, {name: arrays[name] for name in arrays if places[name] == file}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_same(arrays_at(tmp_path), parameters())
    assert open_checkpoint(tmp_path).format == "Hugging Face folder (PyTorch, 3 shards)"


def test_the_content_counts_and_not_the_name(tmp_path, torch):
    folder = write_folder(tmp_path / "a", TINY, parameters())
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    assert_same(arrays_at(folder), parameters())
    save(torch, parameters(), folder / "model.safetensors")
    assert open_checkpoint(folder).format == "Hugging Face folder (PyTorch)"
    assert_same(arrays_at(folder), parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_what_transformers_makes(tmp_path, torch, dtype, form):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    config = transformers.GPT2Config(vocab_size=13, n_positions=7, n_embd=12, n_layer=2, n_head=3)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).to(getattr(torch, dtype)).eval()
    config.save_pretrained(tmp_path)
    state = model.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    opened = open_checkpoint(tmp_path)
    assert opened.ignored_keys == ("lm_head.weight",)
    for name, tensor_ in opened.tensors.items():
        np.testing.assert_array_equal(tensor_.numpy(), state[f"transformer.{name}"].float().numpy())
    ids = np.random.default_rng(0).integers(0, 13, (2, 7))
    with npgpt.no_grad(), torch.no_grad():
        found = load(tmp_path).eval()(ids).data
        expected = model.float()(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_damaged_numbers_are_not_loaded(tmp_path, torch):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    save(torch, parameters(), tmp_path / "pytorch_model.bin")
    data = bytearray((tmp_path / "pytorch_model.bin").read_bytes())
    data[data.index(parameters()["h.0.mlp.c_fc.weight"].tobytes()) + 100] ^= 1
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: 'pytorch_model/data/\d+': damaged"):
        load(tmp_path)


def test_a_tied_layer_is_refused(tmp_path):
    """As a file of transformers can't be; see check_shares_nothing."""
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "n_layer": 100, "n_embd": 32}))
    shapes = parameter_shapes(GPTConfig(11, 6, 100, 2, 32))
    value = dict_(
        {
            name: tensor(storage(count=4096), 0, shape, (1,) if len(shape) == 1 else (shape[1], 1))
            for name, shape in shapes.items()
        }
    )
    (tmp_path / "pytorch_model.bin").write_bytes(zip_file(value, {"0": bytes(16384)}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: the tensors take .* several share elements"):
        open_checkpoint(tmp_path)


# Files alone


@pytest.mark.parametrize("form", ["safetensors", *FORMS])
def test_a_file_beside_its_configuration(tmp_path, torch, form):
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "activation_function": "relu"}))
    write_json(tmp_path / "npgpt_tokenizer.json", CharTokenizer("abc").to_dict())
    path = tmp_path / "weights"
    if form == "safetensors":
        write_safetensors(path, parameters("transformer."))
    else:
        save(torch, parameters("transformer."), path, form)
    assert_same(arrays_at(path), parameters())
    opened = open_checkpoint(path)
    assert opened.config.activation == "relu"
    assert opened.tokenizer.characters == "abc"
    assert opened.format == f"Hugging Face weights ({'safetensors' if form == 'safetensors' else 'PyTorch'})"


@pytest.mark.parametrize("form", ["safetensors", *FORMS])
def test_a_file_without_its_configuration(tmp_path, torch, form):
    path = tmp_path / "weights"
    if form == "safetensors":
        write_safetensors(path, parameters())
    else:
        save(torch, parameters(), path, form)
    with pytest.raises(
        CheckpointError, match=r"weights: the number of heads is unknown: .*\nand there is no config\.json beside it"
    ) as caught:
        open_checkpoint(path)
    assert str(caught.value).count("\n") == 1


def gpt2_file(path, preset: str, form: str, **changes):
    """A file of the shapes of a released model, full of holes (zeros) instead of weights."""
    shapes = parameter_shapes(GPTConfig.preset(preset, **changes))
    if form == "safetensors":
        header, end = {}, 0
        for name, shape in shapes.items():
            begin, end = end, end + 2 * int(np.prod(shape))
            header[f"transformer.{name}"] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
        encoded = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(encoded)) + encoded)
        with open(path, "r+b") as file:
            file.truncate(8 + len(encoded) + end)
        return
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    value, offset, of = {}, 0, storage(count=total, kind="torch.HalfStorage").replace(b"tQ", b"NtQ")
    for name, shape in shapes.items():
        value[name] = tensor(of, offset, shape, (1,) if len(shape) == 1 else (shape[1], 1))
        offset += int(np.prod(shape))
    path.write_bytes(legacy_file(dict_(value), data=struct.pack("<Q", total)))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + 2 * total)


@pytest.mark.parametrize("form", ["safetensors", "legacy"])
@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("gpt2")])
def test_the_released_models_are_known_by_their_shapes(tmp_path, preset, form):
    gpt2_file(tmp_path / "a", preset, form)
    opened = open_checkpoint(tmp_path / "a")
    assert opened.config == GPTConfig.preset(preset, dropout=0.1)
    assert opened.tensors["h.1.attn.c_attn.weight"].read_rows(3, 4).tolist() == [[0] * 3 * opened.config.n_embd]


@pytest.mark.parametrize("changes", [{"vocab_size": 50258}, {"n_layer": 6}, "nano"])
def test_models_that_are_almost_released_ones_are_not_taken_for_them(tmp_path, changes):
    preset, changes = ("gpt2", changes) if changes != "nano" else ("nano", {"block_size": 1024})
    gpt2_file(tmp_path / "a", preset, "safetensors", **changes)
    with pytest.raises(CheckpointError, match="the shapes are those of no released GPT-2"):
        open_checkpoint(tmp_path / "a")


def test_other_files_of_pytorch(tmp_path):
    for value, message in [
        (
            dict_({"state_dict": dict_({"a": tensor()})}),
            "'state_dict': a tensor and its name were expected, not a dict",
        ),
        (int_(7), "a dict of tensors was expected, not a int"),
        (dict_({}), "the shapes are those of no released GPT-2"),
    ]:
        (tmp_path / "a").write_bytes(zip_file(value))
        with pytest.raises(CheckpointError, match=message) as caught:
            load(tmp_path / "a")
        assert str(caught.value).startswith(f"{tmp_path / 'a'}: ")
