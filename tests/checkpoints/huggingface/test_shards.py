"""A model in several files, and an index that a stranger wrote."""

import json

import numpy as np
import pytest
from helpers.mutations import memory_at_most

from checkpoints.huggingface.test_config import TINY, parameters
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface.read import read_folder
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.errors import CheckpointError


def write_shards(folder, shards: dict[str, dict], weight_map=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    for name, arrays in shards.items():
        write_safetensors(folder / name, arrays)
    if weight_map is None:
        weight_map = {tensor: name for name, arrays in shards.items() for tensor in arrays}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def in_two():
    arrays = list(parameters("transformer.").items())
    return {"a.safetensors": dict(arrays[:5]), "b.safetensors": dict(arrays[5:])}


def test_two_shards(tmp_path):
    checkpoint = open_checkpoint(write_shards(tmp_path, in_two()))
    assert checkpoint.format == "Hugging Face folder (safetensors, 2 shards)"
    assert checkpoint.source == tmp_path / "model.safetensors.index.json"
    assert len(checkpoint.files) == 2
    for name, array in parameters().items():
        np.testing.assert_array_equal(checkpoint.tensors[name].numpy(), array)


def test_shards_as_transformers_writes_them(tmp_path):
    reason = "compares with transformers and torch, which are not installed"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=53, n_positions=9, n_embd=16, n_layer=3, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config)
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    state = theirs.state_dict()
    for name, array in load(tmp_path).state_dict().items():
        np.testing.assert_array_equal(array, state[f"transformer.{name}"].numpy())


# What a stranger's index may say; each with a word of the refusal.
BAD_MAPS = {
    "no map": (None, "weight_map: an object of file names was expected"),
    "null": ({"wte.weight": None}, "weight_map: .None. is not the name"),
    "empty": ({}, "weight_map: an object"),
    "many files": ({f"t{i}": f"f{i}" for i in range(1001)}, "up to 1000 files were expected, not 1001"),
    "above": ({"wte.weight": "../a.safetensors"}, "is not the name of a file beside it"),
    "Windows": ({"wte.weight": "..\\a.safetensors"}, "is not the name of a file beside it"),
    "dots": ({"wte.weight": ".."}, "is not the name of a file beside it"),
    "NUL": ({"wte.weight": "a\0b"}, "is not the name of a file beside it"),
    "missing": ({"wte.weight": "c.safetensors"}, r"c\.safetensors: can't be read: No such file"),
    "long": ({"wte.weight": "x" * 300}, "can't be read: File name too long"),
    "itself": ({"wte.weight": "config.json"}, r"config\.json: "),
}


@pytest.mark.parametrize("case", BAD_MAPS)
def test_bad_maps(tmp_path, case):
    weight_map, message = BAD_MAPS[case]
    write_shards(tmp_path / "model", in_two(), weight_map or {"a": "a"})
    if weight_map is None:
        (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    elif weight_map in ([], {}):
        (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_folder(tmp_path / "model")
    assert str(caught.value).startswith(str(tmp_path))
    assert len(str(caught.value)) < 400 + 2 * len(str(tmp_path))


def test_an_index_that_is_not_what_the_files_hold(tmp_path):
    shards = in_two()
    weight_map = {tensor: name for name, arrays in shards.items() for tensor in arrays}
    moved = weight_map | {"transformer.wte.weight": "b.safetensors"}
    with pytest.raises(CheckpointError, match=r"safetensors: tensor 'transformer\.wte\.weight' is"):
        read_folder(write_shards(tmp_path, shards, moved))
    more = weight_map | {"transformer.x": "a.safetensors"}
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors: tensor 'transformer\.x' is not in it, as the index says"
    ):
        read_folder(write_shards(tmp_path, shards, more))
    less = {tensor: name for tensor, name in weight_map.items() if tensor != "transformer.wte.weight"}
    found = read_folder(write_shards(tmp_path, shards, less)).tensors  # transformers reads it, too
    np.testing.assert_array_equal(found["wte.weight"].numpy(), shards["a.safetensors"]["transformer.wte.weight"])


def test_a_tied_head_and_a_buffer_may_be_listed_or_not(tmp_path):
    shards = in_two()
    weight_map = {tensor: name for name, arrays in shards.items() for tensor in arrays}
    head = shards["a.safetensors"]["transformer.wte.weight"]
    whole = read_folder(write_shards(tmp_path / "plain", shards, weight_map)).tensors
    listed = weight_map | {"lm_head.weight": "b.safetensors"}
    unlisted = {name: dict(arrays) for name, arrays in shards.items()}
    unlisted["b.safetensors"] |= {"lm_head.weight": head, "transformer.h.0.attn.masked_bias": np.float32([-1e4])}
    for name, files, index in (("listed", shards, listed), ("unlisted", unlisted, weight_map)):
        found = read_folder(write_shards(tmp_path / name, files, index)).tensors
        assert found.keys() == whole.keys()
    unlisted["b.safetensors"]["transformer.wte.weight"] = np.zeros_like(head)
    del unlisted["b.safetensors"]["lm_head.weight"]
    found = read_folder(write_shards(tmp_path / "twice", unlisted, weight_map)).tensors
    np.testing.assert_array_equal(found["wte.weight"].numpy(), head)  # that of the shard which the index names


@pytest.mark.parametrize("part", [b"[],", b'"ab",'])
def test_an_index_that_would_fill_the_memory(tmp_path, part):
    index = write_shards(tmp_path, in_two()) / "model.safetensors.index.json"
    index.write_bytes(b'{"weight_map": [' + part * (9_900_000 // len(part)) + b"0]}")
    with memory_at_most(index.stat().st_size), pytest.raises(CheckpointError, match="more than 250,000 items"):
        read_folder(tmp_path)
