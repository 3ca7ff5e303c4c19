"""Names and shapes against the configuration: what is wrong is named, with the likely reason."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, lazy_array
from npgpt.checkpoints.shared.names import TRANSPOSED, listed, short_name, to_ours, to_theirs
from npgpt.checkpoints.shared.validate import check_fit
from npgpt.errors import CheckpointError
from npgpt.gpt import parameter_shapes

TINY = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8, n_inner=24)


def shaped(config, **changes):
    """Tensors that have shapes only."""
    shapes = parameter_shapes(config) | changes
    return {name: LazyTensor(shape, "F32", None) for name, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_weights": False, "n_inner": None},
        {"bias": False},
        {"bias": False, "qkv_bias": True},
        {"qkv_bias": False, "position": "rotary", "n_layer": 12},
        {"position": "sinusoidal"},
    ],
)
def test_shapes_are_the_models(changes):
    config = replace(TINY, **changes)
    model = GPT.empty(config)
    assert list(parameter_shapes(config).items()) == [(name, p.shape) for name, p in model.named_parameters()]


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_the_released_sizes(preset, parameters):
    """Parameter counts as transformers gives them for the four public models."""
    shapes = parameter_shapes(GPTConfig.preset(preset))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    check_fit(GPTConfig.preset(preset), shaped(GPTConfig.preset(preset)), "x")
    if preset != "gpt2":
        with pytest.raises(CheckpointError, match=rf"layers in the file, 12 in its configuration: is this {preset}\?"):
            check_fit(GPT2, shaped(GPTConfig.preset(preset)), "f")


GPT2 = GPTConfig()
PROBLEMS = {
    "missing, many": (
        TINY,
        {
            f"h.0.{name}.weight": None
            for name in ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        },
        r"^f lacks the tensors 'h.0.attn.c_attn.weight', .* and 1 more$",
    ),
    "both": (TINY, {"ln_f.bias": None, "ln_f.b": (8,)}, r"^f lacks .*\nf has unexpected tensors: 'ln_f.b'$"),
    "transposed": (
        TINY,
        {"h.1.mlp.c_fc.weight": (24, 8)},
        r"^f: tensor h.1.mlp.c_fc.weight must have shape \(8, 24\), and has \(24, 8\): it looks transposed$",
    ),
    "vocabulary": (TINY, {"wte.weight": (12, 8)}, "a vocabulary of 12 in the file, of 11 in its configuration"),
    "other": (TINY, {"h.0.ln_1.bias": (9,)}, r"must have shape \(8,\), and has \(9,\)$"),
    "more layers": (TINY, {"h.2.ln_1.bias": (8,)}, "^f: 3 layers in the file, 2 in its configuration$"),
    "gpt2's width": (
        GPT2,
        {"wte.weight": (50304, 768)},
        "a vocabulary of 50,304 in the file, of 50,257 in its configuration",
    ),
    "a longer context": (TINY, {"wpe.weight": (7, 8)}, "a context of 7 in the file, of 6 in its configuration"),
    "medium's width": (
        GPT2,
        {"wte.weight": (50257, 1024)},
        "this is gpt2-medium, and the configuration another model's",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_does_not_fit(case):
    config, changes, message = PROBLEMS[case]
    with pytest.raises(CheckpointError, match=message):
        check_fit(config, shaped(config, **changes), "f")


def test_a_configuration_of_a_giant_costs_nothing():
    with pytest.raises(CheckpointError, match=r"2 layers in the file, 1000000000 in its configuration$"):
        check_fit(replace(TINY, n_layer=10**9), shaped(TINY), "f")


@pytest.mark.parametrize("position", ["rotary", "sinusoidal"])
def test_a_context_that_no_tensor_shows(position):
    for block_size in (1, 1000, 2**19):
        config = replace(TINY, position=position, block_size=block_size)
        check_fit(config, shaped(config), "f")
    for block_size in (2**20, 2**31 - 1):
        config = replace(TINY, position=position, block_size=block_size)
        with pytest.raises(CheckpointError, match=r"^f: a context of .* far too long for its [\d,]+ elements$"):
            check_fit(config, shaped(config), "f")


def test_weights_are_floats():
    tensors = shaped(TINY) | {"ln_f.bias": lazy_array(np.zeros(8, np.int32))}
    with pytest.raises(CheckpointError, match=r"ln_f.bias must hold floating-point numbers \(F64, .*\), and is I32"):
        check_fit(TINY, tensors, "f")


# Names


def test_a_strangers_name_moves_no_cursor():
    assert short_name("h.0.ln_1.weight") == "h.0.ln_1.weight"
    assert short_name("\x1b[2J") == repr("\x1b[2J")
    assert short_name("x" * 100) == "x" * 60
    assert listed(["a", "b\n", "c", "d", "e"]) == r"'a', 'b\n', 'c' and 2 more"


NAMES = (
    ("tok", "wte.weight"),
    ("blk.{}.up.w", "h.{}.mlp.c_fc.weight", TRANSPOSED),
    ("blk.{}.up.b", "h.{}.mlp.c_fc.bias"),
)


def test_names_there_and_back():
    w = np.arange(6.0).reshape(2, 3)
    theirs = {"tok": lazy_array(w), "blk.12.up.w": lazy_array(w), "blk.0.up.b": lazy_array(w[0])}
    ours = to_ours(NAMES, theirs | {"blk.01.up.b": lazy_array(w)}, "f")
    assert list(ours) == ["wte.weight", "h.12.mlp.c_fc.weight", "h.0.mlp.c_fc.bias", "blk.01.up.b"]
    np.testing.assert_array_equal(ours["h.12.mlp.c_fc.weight"].numpy(), w.T)
    np.testing.assert_array_equal(ours["wte.weight"].numpy(), w)
    del ours["blk.01.up.b"]
    back = to_theirs(NAMES, ours)
    assert list(back) == list(theirs)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor.numpy(), theirs[name].numpy())


def test_names_that_can_not_be():
    vector = lazy_array(np.zeros(3))
    with pytest.raises(CheckpointError, match=r"f: tensor blk\.3\.up\.w must be a matrix, and has shape \(3,\)"):
        to_ours(NAMES, {"blk.3.up.w": vector}, "f")
    for ours in ("wte.weight", "h.0.attn.c_proj.weight", "ln_f.x"):
        with pytest.raises(CheckpointError, match=f"f: tensor '{ours}' has npgpt's name for it, not the format's"):
            to_ours(NAMES, {"tok": vector, ours: vector}, "f")
    with pytest.raises(KeyError):
        to_theirs(NAMES, {"wpe.weight": vector})
