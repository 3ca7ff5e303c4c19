"""The parts of a model, each against a plain version, and how parameters are named, listed, saved and loaded."""

import dataclasses
import math
import threading

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import Tensor
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.layers import MLP, Dropout, LayerNorm, Linear, Module, dropout_off

CONFIG = GPTConfig(vocab_size=11, block_size=5, n_layer=2, n_head=3, n_embd=6, n_inner=7)
B, T, C = 2, 5, 6


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# Module: names, modes, state


class Leaf(Module):
    def __init__(self, bias=True):
        self.size = 3
        self.weight = Tensor(np.ones((2, 3)), requires_grad=True)
        self.bias = Tensor(np.zeros(3), requires_grad=True) if bias else None


class Tree(Module):
    def __init__(self):
        self.first = Leaf()
        self.scale = Tensor(np.full(1, 2.0), requires_grad=True)
        self.h = [Leaf(), Leaf(bias=False)]
        self.others = ["not a module", 1]


def test_names_are_paths_of_attributes_and_indices():
    assert [name for name, _ in Tree().named_parameters()] == [
        "scale", "first.weight", "first.bias", "h.0.weight", "h.0.bias", "h.1.weight"
    ]  # fmt: skip
    assert [name for name, _ in Tree().children()] == ["first", "h.0", "h.1"]
    assert [name for name, _ in Leaf().named_parameters("a.")] == ["a.weight", "a.bias"]


def test_parts_in_other_containers_are_refused():
    """They would be neither trained nor saved, in silence."""
    w, part = Tensor([1.0], requires_grad=True), Leaf()
    for container in ([w], {"a": part}, {"a": w}, [[part]], [part, w], [1, (w,)]):
        tree = Tree()
        tree.first.parts = container
        with pytest.raises(TypeError, match=r"^first\.parts: parameters are found as attributes"):
            tree.state_dict()
    tree.first.parts = [part, None, 1, "x", [2]]
    assert "first.parts.0.weight" in tree.state_dict()
    del tree.first.parts
    names = list(tree.state_dict())
    for container in (
        (part,),
        {"mask": Tensor([1.0])},
        [w * 2],
        [tree.scale * tree.first.weight],
        {"a": Dropout(0, None)},
    ):
        tree.first.kept = container  # a hidden Module, constants, results
        assert list(tree.state_dict()) == names


def test_what_an_operation_made_is_no_parameter():
    tree = Tree()
    names = set(tree.state_dict())
    tree.last = tree.scale * 2
    assert set(tree.state_dict()) == names


def test_train_and_eval_reach_all_parts():
    tree = Tree()
    parts = [tree, tree.first, *tree.h]
    assert not any(part.training for part in parts)
    assert tree.train() is tree
    assert all(part.training for part in parts)
    assert tree.eval() is tree
    assert not any(part.training for part in parts)


def test_state_dict_holds_the_parameters_own_arrays():
    tree = Tree()
    state = tree.state_dict()
    assert list(state) == [name for name, _ in tree.named_parameters()]
    assert all(state[name] is p.data for name, p in tree.named_parameters())


def test_load_state_dict_copies_what_state_dict_gave():
    source, target = with_random_parameters(Tree(), seed=1), Tree()
    arrays = source.state_dict()
    before = dict(target.named_parameters())
    target.load_state_dict(arrays)
    for name, p in target.named_parameters():
        assert p is before[name]
        assert p.data is not arrays[name]
        np.testing.assert_array_equal(p.data, arrays[name])
    target.scale.data[...] = 7
    assert source.scale.data != 7


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_load_state_dict_converts_to_the_parameters_dtype(dtype):
    tree = Tree()
    tree.load_state_dict({name: np.full(p.shape, 0.5, dtype) for name, p in tree.named_parameters()})
    for _, p in tree.named_parameters():
        assert p.dtype == np.float64
        assert (p.data == 0.5).all()


def without(name):
    return lambda arrays: arrays.pop(name)


def replaced(name, array):
    return lambda arrays: arrays.update({name: array})


UNFIT = {
    "missing": (without("h.0.bias"), r"some\.file lacks the tensor 'h\.0\.bias'"),
    "missing, the first parameter": (without("scale"), r"lacks the tensor 'scale'"),
    "unexpected": (replaced("h.2.weight", np.ones((2, 3))), r"some\.file has an unexpected tensor 'h\.2\.weight'"),
    "shape": (replaced("h.1.weight", np.ones((3, 2))), r"some\.file.* h\.1\.weight .*\(2, 3\).*\(3, 2\)"),
    "shape that would broadcast": (replaced("h.1.weight", np.ones((1, 3))), r"h\.1\.weight .*\(2, 3\).*\(1, 3\)"),
    "scalar": (replaced("first.bias", np.float64(1)), r"first\.bias .*\(3,\).*\(\)"),
    "whole numbers": (replaced("h.1.weight", np.ones((2, 3), np.int64)), r"h\.1\.weight .*int64"),
    "bool": (replaced("h.1.weight", np.ones((2, 3), bool)), r"h\.1\.weight .*bool"),
    "complex": (replaced("h.1.weight", np.ones((2, 3), np.complex64)), r"h\.1\.weight .*complex64"),
}


@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_arrays_that_do_not_fit_change_nothing(change, message):
    arrays = {name: array + 1 for name, array in Tree().state_dict().items()}
    change(arrays)
    tree = Tree()
    with pytest.raises(CheckpointError, match=message):
        tree.load_state_dict(arrays, "some.file")
    for name, array in Tree().state_dict().items():
        np.testing.assert_array_equal(tree.state_dict()[name], array)


# The parts, with random parameters in float64, against plain versions of what each does


def part(made):
    return with_random_parameters(made, seed=3)


def test_without_bias_there_is_no_such_parameter():
    assert [name for name, _ in Linear(4, 3, False, np.float64).named_parameters()] == ["weight"]
    assert [name for name, _ in LayerNorm(4, False, 1e-5, np.float64).named_parameters()] == ["weight"]


ACTIVATION_OF_A_NUMBER = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


@pytest.mark.parametrize("activation", ACTIVATION_OF_A_NUMBER)
def test_mlp(activation):
    config = dataclasses.replace(CONFIG, activation=activation)
    mlp = part(MLP(config, np.random.default_rng(0), np.float64))
    x = random(B, T, C)
    inner = x @ mlp.c_fc.weight.data + mlp.c_fc.bias.data
    assert inner.shape == (B, T, 7)
    inner = np.vectorize(ACTIVATION_OF_A_NUMBER[activation])(inner)
    expected = inner @ mlp.c_proj.weight.data + mlp.c_proj.bias.data
    np.testing.assert_allclose(mlp(Tensor(x)).data, expected, atol=1e-13)


# Dropout


def dropout(p, training=True, seed=0):
    return Dropout(p, np.random.default_rng(seed)).train(training)


def test_each_use_of_dropout_is_another_and_the_seed_repeats_all_of_them():
    x = Tensor(np.ones(1000))
    one, other = dropout(0.5), dropout(0.5)
    uses = [one(x).data for _ in range(3)]
    assert not (uses[0] == uses[1]).all()
    assert not (uses[1] == uses[2]).all()
    np.testing.assert_array_equal(uses, [other(x).data for _ in range(3)])
    assert not (uses[0] == dropout(0.5, seed=1)(x).data).all()


def test_the_generators_state_is_all_there_is_to_save():
    x = Tensor(np.ones(1000))
    one = dropout(0.5)
    one(x)
    state = one.rng.bit_generator.state
    later = one(x).data
    other = dropout(0.5, seed=5)
    other.rng.bit_generator.state = state
    np.testing.assert_array_equal(other(x).data, later)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (0.0, False)])
def test_dropout_that_is_off_draws_nothing_and_changes_nothing(p, training):
    layer = dropout(p, training)
    state = layer.rng.bit_generator.state
    x = Tensor(random(10))
    assert layer(x) is x
    assert layer.rng.bit_generator.state == state


def test_dropout_off_is_for_its_thread_alone():
    layer, x = dropout(0.5), Tensor(np.ones(1000))
    elsewhere = []
    with dropout_off():
        assert layer(x) is x
        thread = threading.Thread(target=lambda: elsewhere.append(layer(x)))
        thread.start(), thread.join()
    assert layer.training
    assert elsewhere[0] is not x
    assert layer(x) is not x
