"""TrainSettings: what is typed, what a run stores, and that both are checked alike."""

import json
from dataclasses import asdict, fields

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from npgpt import layers
from npgpt.config import ACTIVATIONS, BASE_FORMATS, MATMUL_PRECISIONS, POSITIONS, PRESETS, WEIGHTS, GPTConfig
from npgpt.errors import ConfigError
from npgpt.generation import Sampling
from npgpt.kernels import decode, packed, precision
from npgpt.sample import SampleSettings
from npgpt.schedules import SCHEDULES
from npgpt.text import LOSSES, SPLITS
from npgpt.training.parts import LORA, parse_rates
from npgpt.training.settings import RESUMABLE, TrainSettings, plan_from_dict

fractions = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e6, exclude_min=True)
counts = st.integers(1, 2**31 - 1)
from_0 = st.floats(0, 1e300)
switches = st.booleans()
# For each field values that can be; all that may be None in TrainSettings are None now and then.
VALUES = {
    "texts": st.lists(st.text(), max_size=3).map(tuple),
    "tokenizer": st.sampled_from(["gpt2", "char", "byte", "bpe:300"]), "split_by": st.sampled_from(SPLITS),
    "loss_on": st.sampled_from(LOSSES),
    "context": counts, "stride": counts, "batch_size": counts, "val_fraction": fractions,
    "preset": st.sampled_from(sorted(PRESETS)), "n_layer": counts, "n_head": counts, "n_embd": counts,
    "n_inner": counts, "dropout": fractions, "bias": switches, "qkv_bias": switches, "tie_weights": switches,
    "position": st.sampled_from(POSITIONS), "activation": st.sampled_from(ACTIVATIONS),
    "lora_rank": st.integers(1, 65536), "lora_alpha": positive, "lora_dropout": fractions,
    "lora_targets": st.sampled_from(["c_attn", "c_proj, mlp.c_fc"]), "lora_base": st.sampled_from(BASE_FORMATS),
    "freeze": st.sampled_from(["wte,wpe", "*.bias"]), "train_only": st.just("h.[0-5]"), "lr_for": st.just("h=1,wte=2"),
    "init_from": st.text(min_size=1), "max_steps": counts, "decay_steps": counts, "decay_fraction": fractions,
    "schedule": st.sampled_from(SCHEDULES),
    "epochs": positive, "patience": counts, "min_delta": from_0,
    "lr": positive, "min_lr": from_0, "warmup": st.integers(0, 2**31 - 1), "grad_accum": counts, "grad_clip": from_0,
    "weight_decay": from_0, "beta1": fractions, "beta2": fractions, "seed": st.integers(0, 2**63 - 1),
    "keep": st.integers(0, 2**31 - 1), "time_budget": positive,
    "out": st.text(min_size=1), "log_every": counts, "eval_every": counts, "eval_batches": counts,
    "sample_every": st.integers(0, 2**31 - 1), "sample_prompt": st.text(), "sample_tokens": counts,
    "matmul_precision": st.sampled_from(MATMUL_PRECISIONS),
    "recompute": switches, "tensorboard": switches, "threads": st.integers(1, 1024),
}  # fmt: skip

OF_THE_MODEL = {
    "tokenizer", "preset", "n_layer", "n_head", "n_embd", "n_inner", "bias", "qkv_bias", "tie_weights", "position",
    "activation",
}  # fmt: skip


@st.composite
def settings_values(draw):
    values = draw(st.fixed_dictionaries({}, optional=VALUES))
    for name, others in (("max_steps", ("epochs", "time_budget")), ("epochs", ("time_budget",))):
        if name in values:
            values = {n: value for n, value in values.items() if n not in others}
    if "init_from" in values:
        values = {name: value for name, value in values.items() if name not in OF_THE_MODEL}
    for flags, needed in ((LORA, "lora_rank"), (("lora_rank", *LORA), "init_from")):
        if needed not in values:
            values = {name: value for name, value in values.items() if name not in flags}
    if values.get("schedule") == "constant":
        values = {name: value for name, value in values.items() if name not in ("min_lr", "decay_steps")}
    if values.get("schedule") != "wsd":
        values.pop("decay_fraction", None)
    if values.get("val_fraction") == 0:
        values.pop("patience", None)
    if "min_lr" in values:
        values["min_lr"] = min(values["min_lr"], values.get("lr", 1e-3))
    if {"warmup", "decay_steps"} <= set(values):
        values["warmup"] = min(values["warmup"], values["decay_steps"])
    return values


def test_every_field_is_drawn():
    assert set(VALUES) == {f.name for f in fields(TrainSettings)}
    assert set(RESUMABLE) <= set(VALUES)


@given(settings_values())
def test_what_a_run_stores_comes_back(values):
    settings = TrainSettings(**values)
    stored = json.loads(json.dumps(settings.to_dict()))
    assert TrainSettings.from_dict(stored) == settings
    without_none = {name: value for name, value in stored.items() if value is not None}
    assert TrainSettings.from_dict(without_none) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("texts", "a.txt"), ("texts", ["a.txt", 3]), ("batch_size", 0), ("batch_size", 1.5), ("batch_size", True),
        ("batch_size", "8"), ("batch_size", 10**400), ("lr", float("nan")), ("lr", "1e-3"), ("dropout", 1), ("bias", 1),
        ("tokenizer", 3), ("tokenizer", "bpe:256"), ("preset", ["nano"]), ("init_from", ""), ("sample_prompt", 5),
        ("colour", "red"),
    ],
)  # fmt: skip
def test_a_stored_value_that_can_not_be(name, value):
    with pytest.raises(ConfigError, match=name):
        TrainSettings.from_dict({name: value})


def test_a_stored_value_of_any_length_is_refused_in_a_line():
    for values in ({"lr": "9" * 10**5}, {"lr": [[1] * 100] * 100}, {"x" * 10**5: 1}):
        with pytest.raises(ConfigError) as caught:
            TrainSettings.from_dict(values)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_steps": 3, "epochs": 1.0}, "--max-steps and --epochs"),
        ({"init_from": "x", "preset": "nano", "tokenizer": "byte"}, "leave out --tokenizer, --preset"),
        ({"init_from": "x", "n_layer": 1, "bias": False}, "leave out --n-layer, --bias"),
        ({"lr": 1e-3, "min_lr": 2e-3}, "--min-lr 0.002 is above --lr 0.001"),
        ({"warmup": 6, "decay_steps": 4}, "--warmup 6 is above --decay-steps 4: --lr is never reached"),
        ({"max_steps": 3, "time_budget": 1.0}, "--max-steps and --time-budget"),
        ({"epochs": 3.0, "time_budget": 1.0}, "--epochs and --time-budget"),
        ({"time_budget": 0.0}, "--time-budget 0 leaves no time"),
        ({"val_fraction": 0.0, "patience": 1}, "--patience"),
        ({"schedule": "constant", "min_lr": 0.0}, "leave out --min-lr and --decay-steps"),
        ({"schedule": "constant", "decay_steps": 3}, "leave out --min-lr and --decay-steps"),
        ({"schedule": "linear", "decay_fraction": 0.5}, "--decay-fraction is for --schedule wsd, not linear"),
    ],
)
def test_settings_that_contradict_each_other(values, words):
    with pytest.raises(ConfigError, match=words):
        TrainSettings(**values)
    with pytest.raises(ConfigError, match=words):
        TrainSettings.from_dict(values)


def test_what_is_said_of_the_model():
    assert TrainSettings().config_overrides() == {}
    said = {
        "n_layer": 1, "n_head": 2, "n_embd": 8, "n_inner": 9, "dropout": 0.0, "bias": False, "qkv_bias": True,
        "tie_weights": False, "position": "rotary", "activation": "relu",
    }  # fmt: skip
    changes = TrainSettings(**said, context=16, lr=3.0).config_overrides()
    assert changes == {**said, "block_size": 16}
    assert GPTConfig(**changes).to_dict().items() >= changes.items()


# Plans


@given(settings_values(), st.integers(1, 10**9), st.text())
def test_a_plan_leaves_nothing_open_and_comes_back(values, n_windows, beginning):
    settings = TrainSettings(**values)
    assume(settings.epochs is None or settings.epochs * n_windows < 2**31)
    plan = settings.resolve(n_windows, 64, beginning)
    assert plan.context == 64
    for name in ("max_steps", "lr", "warmup", "min_lr", "decay_steps", "eval_every", "sample_every", "sample_prompt"):
        assert getattr(plan, name) == values.get(name, getattr(plan, name)) is not None
    assert plan_from_dict(json.loads(json.dumps(asdict(plan)))) == plan


def test_the_defaults_of_a_plan():
    assert asdict(TrainSettings(lr=0.5).resolve(100, 64, "The")) == {
        "context": 64, "max_steps": 200, "lr": 0.5, "warmup": 10, "min_lr": 0.05, "decay_steps": 200,
        "eval_every": 20, "sample_every": 20, "sample_prompt": "The", "schedule": "cosine", "decay_fraction": 0.2,
        "time_budget": 0.0,
    }  # fmt: skip
    assert TrainSettings(max_steps=7, eval_every=3, decay_steps=40).resolve(1, 1).warmup == 2
    assert TrainSettings(max_steps=7).resolve(1, 1).eval_every == 1
    assert TrainSettings(epochs=1.1, batch_size=1).resolve(50, 1).max_steps == 55  # though 1.1 * 50 is above 55


@pytest.mark.parametrize(
    "change", [{"max_steps": 0}, {"warmup": True}, {"min_lr": None}, {"lr": "1"}, {"sample_prompt": 3}, {"x": 1}]
)
def test_a_stored_plan_that_can_not_be(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        plan_from_dict({**asdict(TrainSettings().resolve(1, 1)), **change})
    with pytest.raises(ConfigError, match="a plan must have context, "):
        plan_from_dict({})


def test_a_plan_of_before_there_were_schedules():
    plan = TrainSettings().resolve(1, 1)
    old = {
        name: value for name, value in asdict(plan).items() if name not in ("schedule", "decay_fraction", "time_budget")
    }
    assert plan_from_dict(old) == plan


def test_words_and_defaults_without_numpy_are_those_of_the_code():
    assert tuple(precision.PRECISIONS) == MATMUL_PRECISIONS
    assert packed.FORMATS == WEIGHTS
    assert (
        tuple(layers._ACTIVATIONS) == decode.ACTIVATIONS == ACTIVATIONS
    )  # its place in decode's is what a kernel gets
    typed, sampling = SampleSettings(), Sampling()
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.8, 50, None)
    for field in fields(Sampling):
        expected = getattr(sampling, field.name)
        assert getattr(typed, field.name) == (() if field.name == "logit_bias" else expected), field.name


def test_more_steps_than_can_be_counted():
    with pytest.raises(ConfigError, match="--epochs 1e\\+09 are 12,500,000,000 steps: too many"):
        TrainSettings(epochs=1e9).resolve(100, 64)


def test_of_two_rates_of_a_pattern_the_last_one_counts():
    assert list(parse_rates("wte.weight=1e-4,wte=1e-3,wte.weight=5e-4").items()) == [
        ("wte", 1e-3),
        ("wte.weight", 5e-4),
    ]
