"""Adapters beside a model: attached, switched, removed; what they share, what trains, what is generated with them."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.adapters import CONFIG, IDS, TARGETS, base_model, random_adapter
from helpers.models import as_checkpoint

from npgpt import adapters, no_grad
from npgpt.adapters import LoRAConfig, adapter_of, attach, attached, detach, new_adapter, use
from npgpt.adapters.files import with_adapter
from npgpt.adapters.lora import merged
from npgpt.checkpoints import save
from npgpt.errors import CheckpointError, ConfigError
from npgpt.generation import Decoder


def with_merged(adapter, dtype=np.float64):
    """A model without adapters that has W + s A B in its matrices."""
    model = base_model(dtype)
    arrays = model.state_dict()
    for layer, (A, B) in adapter.matrices.items():
        W = arrays[f"{layer}.weight"]
        W[...] = merged(W, A.astype(dtype), B.astype(dtype), adapter.config)
    return model


def logits(model):
    with no_grad():
        return model(IDS).data


def test_a_new_adapter_changes_nothing():
    model = base_model()
    before = logits(model)
    attach(model, new_adapter(CONFIG, LoRAConfig(4)))
    with pytest.raises(CheckpointError, match="the model has an adapter at"):
        save(model, "nowhere")
    np.testing.assert_array_equal(logits(model), before)
    for A, B in adapter_of(model).matrices.values():
        bound = 1 / np.sqrt(len(A))
        assert 0.8 * bound < np.abs(A).max() <= bound
        assert not B.any()


def test_the_seed_decides():
    first, same, other = (new_adapter(CONFIG, LoRAConfig(4), seed).matrices["h.0.mlp.c_fc"][0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).all()


def test_several_adapters_are_switched_and_removed():
    model, poems, letters = base_model(), random_adapter(2, 1), random_adapter(3, 2, targets=("c_attn",))
    alone, arrays = logits(model), {name: p.data for name, p in model.named_parameters()}
    attach(model, poems, "poems")
    attach(model, letters, "letters")
    assert attached(model) == ["poems", "letters"]
    expected = {None: alone, "poems": logits(with_merged(poems)), "letters": logits(with_merged(letters))}
    for name in ("letters", "poems", None, "poems", "letters"):
        use(model, name)
        np.testing.assert_allclose(logits(model), expected[name], rtol=0, atol=1e-12)
    detach(model, "poems")
    np.testing.assert_allclose(logits(model), expected["letters"], rtol=0, atol=1e-12)
    detach(model, "letters")
    np.testing.assert_array_equal(logits(model), alone)
    assert all(p.data is arrays[name] for name, p in model.named_parameters())  # nothing was copied or renamed
    assert len(arrays) == len(list(model.named_parameters()))


def test_what_is_removed_while_in_use_is_gone():
    model = base_model()
    alone = logits(model)
    attach(model, random_adapter())
    attach(model, random_adapter(seed=1), "other")
    detach(model, "other")
    np.testing.assert_array_equal(logits(model), alone)
    assert attached(model) == ["default"]


def test_the_base_is_shared_and_frozen_and_the_adapter_trains():
    model = base_model()
    own = model.parameters()
    attach(model, random_adapter(), trainable=True)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if ".lora." in name}
    assert len(names) == 2 * 4 * 2
    assert {id(p) for p in own} < {id(p) for p in model.parameters()}
    model.train().loss(IDS, TARGETS).backward()
    assert [p.grad is None for p in own] == [True] * len(own)
    assert all(np.abs(p.grad).max() > 0 for p in model.trainable_parameters())


@pytest.mark.parametrize("in_use", ["first", None])
def test_a_second_adapter_leaves_the_first_trainable(in_use):
    model = base_model()
    attach(model, random_adapter(), "first", trainable=True)
    use(model, in_use)
    attach(model, random_adapter(seed=1), "second", trainable=True)
    for name in ("first", "second"):
        use(model, name)
        assert len(model.trainable_parameters()) == 2 * 4 * 2
        assert all(".lora." in name for name, p in model.named_parameters() if p.requires_grad)


def test_the_base_keeps_its_names():
    model = base_model()
    arrays = {name: p.data.copy() for name, p in model.named_parameters()}
    attach(model, random_adapter())
    assert [name for name in model.state_dict() if ".lora." not in name] == list(arrays)
    use(model, None)
    model.load_state_dict({name: x + 1 for name, x in arrays.items()})
    np.testing.assert_array_equal(model.h[0].attn.c_attn.base.weight.data, arrays["h.0.attn.c_attn.weight"] + 1)


def test_merging_adds_it_to_the_weights(tmp_path):
    model, first, second = base_model(), random_adapter(2, 1), random_adapter(3, 2, targets=("c_attn",))
    before = model.state_dict()["h.0.attn.c_attn.weight"].copy()
    attach(model, first, "first")
    attach(model, second, "second")
    adapters.merge(model, "first")
    assert attached(model) == ["second"]
    use(model, None)
    np.testing.assert_array_equal(logits(model), logits(with_merged(first)))
    detach(model, "second")
    assert (model.state_dict()["h.0.attn.c_attn.weight"] != before).any()
    save(model, tmp_path / "merged.safetensors")


def test_what_is_taken_from_a_model_says_where_it_came_from():
    model, adapter = base_model(), replace(random_adapter(), base="gpt2", checksum="0" * 64)
    attach(model, adapter)
    found = adapter_of(model)
    assert (found.base, found.checksum, found.config) == (adapter.base, adapter.checksum, adapter.config)
    assert found.matrices.keys() == adapter.matrices.keys()


def test_an_adapter_to_use_alone_freezes_nothing():
    model = base_model()
    attach(model, random_adapter())
    assert all(p.requires_grad == (".lora." not in name) for name, p in model.named_parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_activation_checkpointing_changes_no_bit(dropout):
    results = []
    for recompute in (False, True):
        model = base_model(dropout=0.1)
        attach(model, random_adapter(dropout=dropout), trainable=True)
        model.recompute = recompute
        loss = model.train().loss(IDS, TARGETS)
        loss.backward()
        results.append([loss.data, *(p.grad for p in model.trainable_parameters())])
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_dropout_is_on_in_training_alone_and_drawn_from_the_models_generator():
    model = base_model()
    attach(model, random_adapter(dropout=0.5))
    without = logits(model)
    np.testing.assert_array_equal(logits(model), without)
    model.train()
    state = model.get_rng_state()
    first, second = logits(model), logits(model)
    assert np.abs(first - without).max() > 0.01
    assert (first != second).any()
    model.set_rng_state(state)
    np.testing.assert_array_equal(logits(model), first)


def test_an_adapter_that_is_attached_while_training_has_its_dropout_on():
    model = base_model().train()
    attach(model, random_adapter(dropout=0.5))
    assert (logits(model) != logits(model)).any()


@pytest.mark.parametrize("weights", [None, "f32", "int8"])
def test_generating(weights):
    """With cache and packed weights, it is the merged model."""
    adapter = random_adapter()
    model = base_model(np.float32)
    attach(model, adapter)
    expected = Decoder(with_merged(adapter, np.float32), weights)
    found = model.generate(IDS[:, :2], 5, temperature=0) if weights is None else None
    decoder = Decoder(model, weights)
    np.testing.assert_array_equal(decoder.generate(IDS[:, :2], 5, temperature=0),
                                  expected.generate(IDS[:, :2], 5, temperature=0))  # fmt: skip
    if found is not None:
        np.testing.assert_array_equal(found, expected.generate(IDS[:, :2], 5, temperature=0))


@pytest.mark.parametrize(("call", "words"), [
    (lambda model: attach(model, random_adapter()), "adapter 'default' already"),
    (lambda model: use(model, "poem"), "no adapter 'poem' is attached; there are default"),
    (lambda model: detach(model, "poem"), "no adapter 'poem' is attached"),
    (lambda model: adapter_of(model, "poem"), "no adapter 'poem' is attached"),
    (lambda model: new_adapter(CONFIG, LoRAConfig(2, targets=("c_attn", "wte"))), "'wte' is no linear layer"),
    (lambda model: new_adapter(CONFIG, LoRAConfig(17)), "rank 17 is above the size of h.0.attn.c_attn, 16 x 48"),
    (lambda model: adapters.merge(model, "poem"), "no adapter 'poem' is attached"),
    (lambda model: LoRAConfig(2, targets="c_attn"), "targets are several names"),
    (lambda model: LoRAConfig(True), "rank must be a whole number from 1"),
    (lambda model: LoRAConfig(0), "rank must be a whole number from 1"),
    (lambda model: LoRAConfig(2, alpha=-1.0), "alpha must be a number above 0"),
    (lambda model: LoRAConfig(2, alpha=float("nan")), "alpha must be a number above 0"),
    (lambda model: LoRAConfig(2, dropout=1.0), "dropout must be from 0"),
])  # fmt: skip
def test_mistakes(call, words):
    model = base_model()
    attach(model, random_adapter())
    with pytest.raises(ConfigError, match=words):
        call(model)


def test_an_adapter_of_another_model():
    for config, words in (({"n_layer": 1}, "no such linear layer"), ({"n_embd": 8}, "the model's matrix of")):
        with pytest.raises(ConfigError, match=words):
            attach(base_model(**config), random_adapter())


def test_a_path_is_no_adapter():
    with pytest.raises(TypeError, match=r"not str: open_adapter\(path\) reads one"):
        attach(base_model(), "poems")


def test_scale_is_alpha_over_the_rank():
    assert LoRAConfig(8).scale == 2
    assert LoRAConfig(8, alpha=4).scale == 0.5
    assert adapters.LoRAConfig(8, alpha=4).alpha == 4.0
    assert LoRAConfig(np.int64(8), np.float32(4), np.float64(0.5)) == LoRAConfig(8, 4.0, 0.5)


@pytest.mark.parametrize(("dtype", "name"), [(np.float64, "F64"), (np.float32, "F32")])
def test_a_base_in_float64_stays_in_it(dtype, name):
    """What is written in float32 is then checked for numbers that are too large."""
    found = with_adapter(as_checkpoint(base_model(dtype)), random_adapter()).tensors["h.0.attn.c_attn.weight"]
    assert (found.dtype, found.numpy().dtype) == (name, dtype)
