"""GPT: its parameters, its initial weights, and what must hold of its results without others to compare them with."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import AdamW, no_grad
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError
from npgpt.gpt import GPT, parameter_shapes

TINY = GPTConfig(vocab_size=13, block_size=6, n_layer=2, n_head=2, n_embd=8)


def random_model(config=TINY, seed=0):
    return with_random_parameters(GPT.empty(config, np.float64), seed)


def random_ids(*shape, seed=0, vocab_size=TINY.vocab_size):
    return np.random.default_rng(seed).integers(vocab_size, size=shape)


def shapes(config):
    return parameter_shapes(config)


# Parameters

PUBLIC = {  # the names and shapes in the public checkpoint, without the prefix "transformer.", for V, T, C = 13, 6, 8
    "wte.weight": (13, 8),
    "wpe.weight": (6, 8),
    "h.0.ln_1.weight": (8,),
    "h.0.ln_1.bias": (8,),
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_attn.bias": (24,),
    "h.0.attn.c_proj.weight": (8, 8),
    "h.0.attn.c_proj.bias": (8,),
    "h.0.ln_2.weight": (8,),
    "h.0.ln_2.bias": (8,),
    "h.0.mlp.c_fc.weight": (8, 32),
    "h.0.mlp.c_fc.bias": (32,),
    "h.0.mlp.c_proj.weight": (32, 8),
    "h.0.mlp.c_proj.bias": (8,),
    "ln_f.weight": (8,),
    "ln_f.bias": (8,),
}
ONE_BLOCK = replace(TINY, n_layer=1)


def test_names_shapes_and_order_are_those_of_the_public_checkpoint():
    assert list(shapes(ONE_BLOCK).items()) == list(PUBLIC.items())


def test_a_second_block_is_named_like_the_first():
    second = {name.replace("h.0.", "h.1."): shape for name, shape in PUBLIC.items() if name.startswith("h.0.")}
    assert shapes(TINY) == PUBLIC | second


def without(*endings):
    return {name: shape for name, shape in PUBLIC.items() if not name.endswith(endings)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tie_weights": False}, PUBLIC | {"lm_head.weight": (13, 8)}),
        ({"position": "sinusoidal"}, without("wpe.weight")),
        ({"position": "rotary"}, without("wpe.weight")),
        ({"bias": False}, without("bias")),
        ({"qkv_bias": False}, without("c_attn.bias")),
        ({"bias": False, "qkv_bias": True}, without("bias") | {"h.0.attn.c_attn.bias": (24,)}),
        (
            {"n_inner": 5},
            PUBLIC | {"h.0.mlp.c_fc.weight": (8, 5), "h.0.mlp.c_fc.bias": (5,), "h.0.mlp.c_proj.weight": (5, 8)},
        ),
    ],
)
def test_parameters_of_the_options(changes, expected):
    assert shapes(replace(ONE_BLOCK, **changes)) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_results_have_the_models_dtype(dtype):
    model = GPT(replace(TINY, position="sinusoidal", tie_weights=False), dtype=dtype)
    assert {p.dtype for _, p in model.named_parameters()} == {np.dtype(dtype)}
    loss = model.loss(random_ids(2, 6), random_ids(2, 6))
    loss.backward()
    assert {loss.dtype, model(random_ids(2, 6)).dtype} == {np.dtype(dtype)}
    assert {p.grad.dtype for _, p in model.named_parameters()} == {np.dtype(dtype)}


@pytest.mark.parametrize("other", [GPT(TINY, seed=1, dtype=np.float64), GPT.empty(TINY, np.float64)])
def test_a_models_arrays_make_another_the_same(other):
    one = random_model()
    other.load_state_dict(one.state_dict())
    assert all(p.data.flags.writeable for p in other.parameters())
    np.testing.assert_array_equal(one(random_ids(2, 6)).data, other(random_ids(2, 6)).data)


def test_an_empty_model_has_shapes_and_no_memory():
    config = GPTConfig(n_layer=1, n_head=1, n_embd=2**24, position="sinusoidal")  # 12 PB of weights
    assert GPT.empty(config).num_parameters() == sum(math.prod(shape) for shape in parameter_shapes(config).values())
    model = GPT.empty(TINY, np.float64)
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)}
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.data.flags.writeable for p in model.parameters())


@pytest.mark.parametrize("dtype", [int, bool, np.int8, "int8", np.float16, complex, ">f4"])
def test_other_dtypes_are_refused(dtype):
    for make in (GPT, GPT.empty):
        with pytest.raises(TypeError, match=r"a model's dtype is float32 or float64, not .*quantize"):
            make(TINY, dtype=dtype)


def test_an_empty_model_is_not_trained():
    model = GPT.empty(TINY)
    optimizer = AdamW(model.named_parameters())
    model.loss(random_ids(2, 6), random_ids(2, 6)).backward()
    with pytest.raises(ValueError, match=r"parameter wte.weight has no weights yet, .*: load the model's weights"):
        optimizer.step()
    assert optimizer.steps == 0


def test_parameters_are_listed_and_those_that_train():
    model = GPT(TINY)
    assert model.parameters() == model.trainable_parameters() == [p for _, p in model.named_parameters()]
    model.wte.weight.requires_grad = False
    assert model.trainable_parameters() == model.parameters()[1:]


def test_arrays_of_another_architecture_are_refused():
    model = GPT(TINY, seed=0)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    for changes in ({"n_layer": 1}, {"n_layer": 3}, {"tie_weights": False}, {"block_size": 7}, {"n_embd": 16}):
        with pytest.raises(CheckpointError):
            model.load_state_dict(GPT(replace(TINY, **changes), seed=0).state_dict())
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name])


# Initial weights

LARGE_ENOUGH = GPTConfig(vocab_size=301, block_size=64, n_layer=8, n_head=2, n_embd=64, tie_weights=False)


def test_initial_weights_are_those_of_gpt2():
    for name, p in GPT(LARGE_ENOUGH, seed=0).named_parameters():
        if p.ndim == 1:
            assert (p.data == (1 if name.endswith("weight") else 0)).all(), name
        else:
            # a sum of 2 n_layer = 16 branches makes the residual stream: 0.02 / sqrt(16)
            deviation = 0.005 if name.endswith("c_proj.weight") else 0.02
            allowed = 5 * deviation / math.sqrt(2 * p.size)  # five standard deviations of a standard deviation
            assert abs(p.data.std() - deviation) < allowed, name
            assert abs(p.data.mean()) < 5 * deviation / math.sqrt(p.size), name
            # normal: a share of 0.0455 is further out than two deviations
            outside = (np.abs(p.data) > 2 * deviation).mean()
            assert abs(outside - 0.0455) < 5 * math.sqrt(0.0455 * 0.9545 / p.size), name


def test_the_seed_decides_the_initial_weights():
    one, same, other = (GPT(TINY, seed=seed).state_dict() for seed in (3, 3, 4))
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
        assert array.ndim == 1 or not (array == other[name]).any(), name


def test_a_float64_model_begins_with_the_values_of_the_float32_model():
    in_float32 = GPT(TINY, seed=0).state_dict()
    for name, array in GPT(TINY, seed=0, dtype=np.float64).state_dict().items():
        np.testing.assert_allclose(array, in_float32[name], rtol=2 * np.finfo(np.float32).eps, err_msg=name)


def test_a_new_model_is_about_as_good_as_guessing():
    model = GPT(TINY, seed=0)
    assert abs(model.loss(random_ids(4, 6), random_ids(4, 6, seed=1)).item() - math.log(13)) < 0.05


# Dropout

DROPPING = replace(TINY, dropout=0.2)


def losses(model, n):
    with no_grad():
        return [model.loss(random_ids(2, 6), random_ids(2, 6, seed=1)).item() for _ in range(n)]


def test_dropout_is_on_while_training_only():
    with_dropout, without = random_model(DROPPING), random_model(TINY)
    assert losses(with_dropout, 2) == losses(without, 2)
    with_dropout.train()
    first, second = losses(with_dropout, 2)
    assert len({first, second, *losses(without, 1)}) == 3
    with_dropout.eval()
    assert losses(with_dropout, 1) == losses(without, 1)


def test_the_seed_decides_dropout_and_its_state_continues():
    """Of a new model and of a loaded one; the state goes through JSON."""
    model, same, other = GPT(DROPPING, seed=0).train(), GPT.empty(DROPPING).train(), GPT(DROPPING, seed=1).train()
    same.load_state_dict(model.state_dict())
    first = losses(model, 4)
    assert first[:2] == losses(same, 2)
    state = json.loads(json.dumps(same.get_rng_state()))
    other.load_state_dict(model.state_dict())
    assert losses(other, 1) != first[:1]
    other.set_rng_state(state)
    assert losses(other, 2) == first[2:]
    other.seed(0)
    assert losses(other, 4) == first


# The loss


@pytest.mark.parametrize("padding_mask", [None, np.arange(18).reshape(3, 6) % 4 > 0])
def test_the_loss_is_the_mean_cross_entropy_of_the_targets_that_count(padding_mask):
    model = random_model()
    ids, targets = random_ids(3, 6), random_ids(3, 6, seed=1)
    targets[0, :4] = targets[2] = -100
    logits = model(ids, padding_mask).data
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [-math.log(probabilities[b, t, v]) for (b, t), v in np.ndenumerate(targets) if v != -100]
    assert len(expected) == 8
    assert abs(model.loss(ids, targets, padding_mask).item() - np.mean(expected)) < 1e-13


def test_the_gradient_of_a_tied_matrix_is_the_sum_of_both_its_uses():
    tied = random_model(TINY)
    untied = GPT.empty(replace(TINY, tie_weights=False), np.float64)
    untied.load_state_dict({**tied.state_dict(), "lm_head.weight": tied.lm_head_weight.data})
    ids, targets = random_ids(2, 6), random_ids(2, 6, seed=1)
    for model in (tied, untied):
        model.loss(ids, targets).backward()
    for name, p in untied.named_parameters():
        if name == "wte.weight":
            assert tied.wte.weight is tied.lm_head_weight
            np.testing.assert_allclose(tied.lm_head_weight.grad, p.grad + untied.lm_head_weight.grad, rtol=1e-12)
        elif name != "lm_head.weight":
            np.testing.assert_allclose(dict(tied.named_parameters())[name].grad, p.grad, rtol=1e-12, atol=1e-16)


# What is refused


def test_ids_that_are_refused():
    model = GPT(TINY, seed=0)
    with pytest.raises(ValueError, match=r"\(B, T\).*\(3,\)"):
        model([1, 2, 3])
    with pytest.raises(ValueError, match=r"7 tokens.*block_size is 6"):
        model(random_ids(1, 7))
    for wrong in (13, -1):
        with pytest.raises(IndexError, match=rf"{wrong} .*vocabulary of 13"):
            model([[0, wrong]])
        with pytest.raises(IndexError, match=rf"{wrong} .*vocabulary of 13"):
            model.loss([[0, 1]], [[0, wrong]])
    with pytest.raises(TypeError, match="whole numbers"):
        model([[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)|\(2, 4\).*\(2, 3\)"):
        model.loss(random_ids(2, 4), random_ids(2, 3))
    with pytest.raises(ValueError, match=r"padding mask.*\(1, 2\)"):
        model([[0, 1]], padding_mask=np.ones((2, 2), bool))


def test_a_giant_of_layers_is_refused():
    for make in (GPT, GPT.empty):
        with pytest.raises(ConfigError, match="n_layer must be at most 10,000, not 2,000,000,000"):
            make(GPTConfig(vocab_size=5, block_size=4, n_layer=2_000_000_000, n_head=1, n_embd=2))
