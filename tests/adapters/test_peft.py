"""Files of adapters from strangers: what is read, and what is refused, with the file and the reason."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.adapters import random_adapter
from helpers.mutations import mutated, refusal

from npgpt.adapters import find_adapter, open_adapter, write_peft
from npgpt.adapters.peft import CONFIG_FILE, WEIGHTS_FILE, read_peft
from npgpt.checkpoints import find_checkpoint
from npgpt.checkpoints.reading import MAX_ADAPTERS
from npgpt.checkpoints.safetensors import read_safetensors, write_safetensors
from npgpt.errors import CheckpointError

PREFIX = "base_model.model.transformer."


@pytest.fixture
def folder(tmp_path):
    """A folder as we write it."""
    write_peft(tmp_path / "adapter", random_adapter(2, dropout=0.25, targets=("c_attn", "mlp.c_proj")))
    return tmp_path / "adapter"


def change(folder, **values):
    path = folder / CONFIG_FILE
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))


def change_arrays(folder, f):
    arrays, _ = read_safetensors(folder / WEIGHTS_FILE)
    arrays = {name: array.copy() for name, array in arrays.items()}
    write_safetensors(folder / WEIGHTS_FILE, f(arrays))


def test_what_is_written_comes_back(folder):
    adapter, found = random_adapter(2, dropout=0.25, targets=("c_attn", "mlp.c_proj")), open_adapter(folder)
    assert found.config == adapter.config
    assert list(found.matrices) == list(adapter.matrices)
    for layer, pair in adapter.matrices.items():
        for x, y in zip(pair, found.matrices[layer], strict=True):
            np.testing.assert_array_equal(x, y)
    assert found.base is None
    assert find_adapter(folder / WEIGHTS_FILE).config == adapter.config
    (folder / "config.json").write_text("{}")  # of its base, as some leave it there
    assert open_adapter(folder).config == adapter.config


def test_settings_that_others_write(folder):
    """Newer versions of peft write more of them, most of them null or false; all may be left out."""
    change(
        folder, use_dora=False, lora_bias=False, layers_pattern=None, megatron_core="megatron.core", revision=None,
        exclude_modules=None, eva_config=None, target_parameters=None, loftq_config={}, auto_mapping=None,
        bias=..., inference_mode=..., rank_pattern=..., target_modules="all-linear", use_rslora=None,
    )  # fmt: skip
    assert read_peft(folder).config.targets == ()
    change(folder, use_rslora=True)
    assert read_peft(folder).config.scale == pytest.approx(4 / 2**0.5)


def test_numbers_that_are_left_out_are_those_of_peft(tmp_path):
    write_peft(tmp_path / "adapter", random_adapter(8, alpha=3.0, dropout=0.25))
    change(tmp_path / "adapter", r=..., lora_alpha=..., lora_dropout=...)
    config = read_peft(tmp_path / "adapter").config
    assert (config.rank, config.alpha, config.dropout) == (8, 8.0, 0.0)  # peft.LoraConfig()'s


def test_an_alpha_that_is_no_whole_number(tmp_path):
    write_peft(tmp_path / "adapter", random_adapter(2, alpha=2.5))
    assert open_adapter(tmp_path / "adapter").config.alpha == 2.5


def test_names_without_the_prefix_of_the_language_model(folder):
    change_arrays(folder, lambda arrays: {name.replace("transformer.", ""): x for name, x in arrays.items()})
    assert len(read_peft(folder).matrices) == 4


REFUSED = {
    "peft_type": ("IA3", "peft_type is 'IA3'"),
    "use_dora": (True, "use_dora is True, which npgpt doesn't compute:\nmerge the adapter in peft (merge_and_unload)"),
    "bias": ("all", "bias is 'all'"),
    "modules_to_save": (["wte"], "modules_to_save is ['wte']"),
    "rank_pattern": ({"c_attn": 4}, "rank_pattern is"),
    "lora_bias": (True, "lora_bias is True"),
    "trainable_token_indices": ([1], "trainable_token_indices is"),
    "init_lora_weights": ("pissa", "which changes the base"),
    "use_rslora": ("yes", "use_rslora: true or false"),
    "r": (3, "with 3 rows, which is the rank"),
    "lora_alpha": ("16", "alpha must be a number"),
    "lora_alpha ": (0, "alpha must be a number above 0"),
    "lora_alpha  ": (10**400, "alpha must be a number above 0"),
    "lora_dropout": (1.5, "dropout must be from 0"),
    "lora_dropout ": (10**400, "dropout must be from 0"),
    "base_model_name_or_path": (7, "base_model_name_or_path: a name was expected"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_settings_that_change_what_is_computed(folder, key):
    value, words = REFUSED[key]
    change(folder, **{key.strip(): value})
    with pytest.raises(CheckpointError) as error:
        read_peft(folder)
    assert words in str(error.value)
    assert str(folder) in str(error.value)
    assert str(error.value).count("\n") == ("npgpt doesn't compute" in str(error.value))  # with advice on a second line


def test_adapters_that_are_bases_of_one_another(tmp_path):
    """A folder of a few kilobytes may hold a thousand."""
    for i in range(MAX_ADAPTERS + 2):
        write_peft(tmp_path / str(i), replace(random_adapter(2), base=str(tmp_path / str(i - 1))))
    with pytest.raises(CheckpointError, match=r"base can't be opened: .*-1: there is no such file or folder"):
        find_checkpoint(tmp_path / str(MAX_ADAPTERS - 1))
    with pytest.raises(CheckpointError, match="more than 10 adapters"):
        find_checkpoint(tmp_path / str(MAX_ADAPTERS + 1))


NAME = f"{PREFIX}h.0.attn.c_attn.lora_A.weight"


@pytest.mark.parametrize(("f", "words"), [
    (lambda a: {}, "no matrices are in it"),
    (lambda a: a | {f"{PREFIX}wte.lora_embedding_A": a[NAME]}, "is none that npgpt knows"),
    (lambda a: a | {f"{PREFIX}h.0.attn.c_fc.lora_A.weight": a[NAME]}, "is none that npgpt knows"),
    (lambda a: {name: a[name] for name in a if name != NAME}, "only one of A and B is there for 'h.0.attn.c_attn'"),
    (lambda a: a | {NAME: a[NAME].T.copy()}, "must be a matrix of floats with 2 rows"),
    (lambda a: a | {NAME: a[NAME].ravel()}, "must be a matrix of floats"),
    (lambda a: a | {NAME: a[NAME].astype(np.int32)}, "must be a matrix of floats"),
    (lambda a: a | {NAME: a[NAME] * np.float32(np.inf)}, "NaN or infinity"),
    (lambda a: a | {NAME.replace("transformer.", ""): a[NAME]}, "is there twice"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_arrays_that_are_not_an_adapters(folder, f, words):
    change_arrays(folder, f)
    with pytest.raises(CheckpointError) as error:
        read_peft(folder)
    assert words in str(error.value)
    assert str(folder / WEIGHTS_FILE) in str(error.value)


def test_missing_files(folder):
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"no adapter_model.safetensors \(adapter_model.bin is not read\)"):
        read_peft(folder)
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        open_adapter(folder / "nothing")
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(CheckpointError, match="is no adapter: neither a run"):
        open_adapter(folder)
    with pytest.raises(CheckpointError, match="is there already"):
        write_peft(folder, random_adapter())


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_damaged_files(folder, name):
    """An adapter or a CheckpointError, whatever is in the files."""
    path = folder / name
    whole, refusals = path.read_bytes(), 0
    for seed in range(150):
        path.write_bytes(mutated(whole, seed))
        message = refusal(lambda: read_peft(folder), path)
        refusals += message is not None
    assert refusals > 30
