"""What a GPTConfig refuses, and the sizes that its presets have."""

import dataclasses
import json
import math

import numpy as np
import pytest

from npgpt.config import ACTIVATIONS, POSITIONS, PRESETS, GPTConfig
from npgpt.errors import ConfigError, UserError
from npgpt.gpt import GPT

NOT_A_SIZE = [0, -1, 2**31, 1.0, 1.5, math.nan, math.inf, True, "1", None, [1], 1j]
NOT_A_NUMBER = [math.nan, math.inf, -math.inf, 10**400, True, "0.1", None, [0.1], 1j]
NOT_A_BOOL = [0, 1, "true", 0.0, []]

WRONG = {
    "vocab_size": NOT_A_SIZE,
    "block_size": NOT_A_SIZE,
    "n_layer": NOT_A_SIZE,
    "n_head": [*NOT_A_SIZE, 5, 1536],  # 768 = n_embd is divisible by neither
    "n_embd": [*NOT_A_SIZE, 6, 767],  # and these not by 12 = n_head
    "n_inner": [value for value in NOT_A_SIZE if value is not None],
    "dropout": [*NOT_A_NUMBER, -0.1, 1, 1.5],
    "bias": [*NOT_A_BOOL, None],
    "qkv_bias": NOT_A_BOOL,
    "tie_weights": [*NOT_A_BOOL, None],
    "position": ["", "Learned", "alibi", None, 0, ["learned"]],
    "activation": ["", "GELU", "silu", None, 0, ["relu"]],
    "layer_norm_epsilon": [*NOT_A_NUMBER, 0, -1e-5, 1],
    "scale_attn_by_inverse_layer_idx": [*NOT_A_BOOL, None],
}

FIELDS = [field.name for field in dataclasses.fields(GPTConfig)]


def test_every_field_has_wrong_values_below():
    assert list(WRONG) == FIELDS


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_its_fields_name(field, value):
    with pytest.raises(ConfigError, match=rf"\b{field}\b"):
        GPTConfig(**{field: value})


def test_a_refusal_is_a_users_mistake_and_a_value_error():
    assert issubclass(ConfigError, UserError)
    assert issubclass(ConfigError, ValueError)


def test_rotary_positions_need_an_even_head_size():
    with pytest.raises(ConfigError, match=r"rotary.*n_embd / n_head.*not 3"):
        GPTConfig(n_embd=6, n_head=2, position="rotary")
    assert GPTConfig(n_embd=6, n_head=3, position="rotary").head_size == 2


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().n_layer = 3


@pytest.mark.parametrize("sizes", [{"n_embd": 2**30}, {"vocab_size": 2**31 - 1, "n_embd": 2**29}])
def test_sizes_beyond_any_memory_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"n_embd \d+ with \d+ columns makes a matrix too large"):
        GPTConfig(n_head=1, **sizes)


def test_values_at_the_ends_of_what_is_allowed():
    one = dict.fromkeys(["vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_inner"], 1)
    config = GPTConfig(**one, dropout=0, layer_norm_epsilon=1e-12)
    assert (config.head_size, config.inner_size) == (1, 1)
    assert GPTConfig(dropout=0.999, layer_norm_epsilon=0.5, vocab_size=2**31 - 1).vocab_size == 2**31 - 1
    for position in POSITIONS:
        assert GPTConfig(position=position).position == position
    for activation in ACTIVATIONS:
        assert GPTConfig(activation=activation).activation == activation


def test_what_follows_from_the_fields():
    config = GPTConfig(n_embd=48, n_head=3)
    assert (config.head_size, config.inner_size) == (16, 192)
    assert dataclasses.replace(config, n_inner=50).inner_size == 50


@pytest.mark.parametrize("bias", [True, False])
def test_qkv_bias_is_the_other_biases_unless_it_is_said(bias):
    assert GPTConfig(bias=bias).has_qkv_bias is bias
    assert GPTConfig(bias=bias, qkv_bias=not bias).has_qkv_bias is not bias


# Every field at a value that is not its default.
UNUSUAL = {
    "vocab_size": 11,
    "block_size": 5,
    "n_layer": 3,
    "n_head": 2,
    "n_embd": 6,
    "n_inner": 7,
    "dropout": 0.25,
    "bias": False,
    "qkv_bias": True,
    "tie_weights": False,
    "position": "sinusoidal",
    "activation": "relu",
    "layer_norm_epsilon": 1e-3,
    "scale_attn_by_inverse_layer_idx": True,
}


@pytest.mark.parametrize("values", [{}, UNUSUAL])
def test_to_dict_and_from_dict_are_inverses_also_through_json(values):
    config = GPTConfig(**values)
    assert list(config.to_dict()) == FIELDS
    assert GPTConfig.from_dict(config.to_dict()) == config
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_to_dict_holds_what_was_given():
    assert list(UNUSUAL) == FIELDS
    assert GPTConfig(**UNUSUAL).to_dict() == UNUSUAL


def test_from_dict_refuses_a_field_that_there_is_not_and_checks_the_others():
    with pytest.raises(ConfigError, match=r"\bn_heads\b"):
        GPTConfig.from_dict({"n_heads": 2})
    with pytest.raises(ConfigError, match=r"\bn_head\b"):
        GPTConfig.from_dict({"n_head": 0})


# Presets


def number_of_parameters(config: GPTConfig) -> int:
    """Counted from the shapes in the GPT-2 paper's architecture, without building anything."""
    V, T, C, inner = config.vocab_size, config.block_size, config.n_embd, config.inner_size
    bias, qkv_bias = config.bias, config.has_qkv_bias
    attention = C * 3 * C + qkv_bias * 3 * C + C * C + bias * C
    mlp = C * inner + bias * inner + inner * C + bias * C
    layer_norm = C + bias * C
    heads = 1 if config.tie_weights else 2
    positions = T * C if config.position == "learned" else 0
    return heads * V * C + positions + config.n_layer * (attention + mlp + 2 * layer_norm) + layer_norm


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_presets_have_the_released_models_numbers_of_parameters(preset, parameters):
    assert number_of_parameters(GPTConfig.preset(preset)) == parameters


def test_gpt2_itself_has_its_number_of_parameters():
    assert GPT.empty(GPTConfig.preset("gpt2")).num_parameters() == 124_439_808


@pytest.mark.parametrize("changes", [{}, *({field: value} for field, value in UNUSUAL.items())])
def test_a_models_number_of_parameters_follows_from_its_shapes(changes):
    config = GPTConfig.preset("nano", vocab_size=13, **{k: v for k, v in changes.items() if k != "vocab_size"})
    assert GPT.empty(config).num_parameters() == number_of_parameters(config)


@pytest.mark.parametrize("preset", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_the_released_models_heads_vocabulary_and_context(preset):
    """The number of parameters doesn't depend on n_head, so it would not show a wrong one."""
    config = GPTConfig.preset(preset)
    assert (config.head_size, config.vocab_size, config.block_size) == (64, 50257, 1024)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_can_be_changed(preset):
    assert GPTConfig.preset(preset, n_layer=7) == dataclasses.replace(GPTConfig.preset(preset), n_layer=7)


def test_a_preset_that_there_is_not():
    with pytest.raises(ConfigError, match=r"'gpt3'.*gpt2-xl"):
        GPTConfig.preset("gpt3")


def test_a_strangers_setting_moves_no_cursor():
    with pytest.raises(ConfigError, match=r"unknown setting of a model: '\\x1b\[2J', 'n_exp'$"):
        GPTConfig.from_dict({"n_exp": 1, "\x1b[2J": 1, "n_layer": 1})


def test_the_default_is_gpt2():
    assert GPTConfig() == GPTConfig.preset("gpt2")


def test_numpys_numbers_are_taken_as_pythons():
    config = GPTConfig(vocab_size=np.int64(65), dropout=np.float32(0.5), bias=np.True_)
    assert config == GPTConfig(vocab_size=65, dropout=0.5, bias=True)
    assert json.dumps(config.to_dict())
