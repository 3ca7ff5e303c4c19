"""The whole model against transformers' GPT2LMHeadModel, and with the options that it lacks against
tests/helpers/torch_gpt.py.

What is promised: float64 logits within 1e-9, float32 logits within 2e-4, the loss within 1e-5, and the gradient of each
parameter within 1e-5 in relative L2 norm. Float64 keeps far closer and is held to that: an error of 1e-6 in GELU's
constant must show.
"""

import math
import os

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.tolerances import rounding
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.config import ACTIVATIONS, POSITIONS, GPTConfig
from npgpt.gpt import GPT

torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")

from helpers.torch_gpt import torch_logits  # noqa: E402 - it imports torch

# the largest difference of logits and of the loss, and the relative L2 distance of each gradient
PROMISED = {np.float64: (1e-11, 1e-12, 1e-9), np.float32: (2e-4, 1e-5, 1e-5)}


@st.composite
def shapes(draw) -> dict:
    """The fields of a tiny GPTConfig that the public GPT-2 has too."""
    n_head = draw(st.integers(1, 4))
    return {
        "vocab_size": draw(st.integers(1, 40)),
        "block_size": draw(st.integers(1, 9)),
        "n_layer": draw(st.integers(1, 3) | st.sampled_from([6, 12])),
        "n_head": n_head,
        "n_embd": n_head * draw(st.sampled_from([1, 2, 3, 8, 16, 65])),
        "n_inner": draw(st.none() | st.integers(1, 50)),
        "tie_weights": draw(st.booleans()),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-3])),
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
    }


@st.composite
def options(draw) -> dict:
    """All fields, with those that only GPTConfig has."""
    fields = draw(shapes()) | {
        "bias": draw(st.booleans()),
        "qkv_bias": draw(st.sampled_from([None, True, False])),
        "position": draw(st.sampled_from(POSITIONS)),
    }
    if fields["position"] == "rotary" and fields["n_embd"] // fields["n_head"] % 2:
        fields["n_embd"] *= 2
    return fields


class Problem:
    """Weights, ids and targets, some of which don't count, for a configuration."""

    def __init__(self, config: GPTConfig, seed: int, with_padding=False, shape=None):
        rng = np.random.default_rng(seed)
        B, T = shape or (rng.integers(1, 4), rng.integers(1, config.block_size + 1))
        self.config = config
        self.arrays = with_random_parameters(GPT.empty(config, np.float64), seed).state_dict()
        self.ids = rng.integers(config.vocab_size, size=(B, T))
        self.targets = np.where(rng.random((B, T)) < 0.2, -100, rng.integers(config.vocab_size, size=(B, T)))
        self.targets[0, 0] = 0  # at least one does
        self.padding_mask = rng.random((B, T)) < 0.7 if with_padding else None

    def check(self, logits, parameters):
        """Compare npgpt's results with ``logits``, which torch made from ``parameters`` {name: tensor} in float64."""
        # transformers takes its own loss in float32, whatever the model's dtype
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(self.targets).flatten())
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in parameters.items()}
        for dtype, (logits_within, loss_within, gradient_within) in PROMISED.items():
            if self.is_narrow and dtype == np.float32:
                continue
            if self.is_narrow:
                logits_within, loss_within = 100 * logits_within, 100 * loss_within
            model = GPT.empty(self.config, dtype)
            model.load_state_dict(self.arrays)
            found = model(self.ids, self.padding_mask).data
            np.testing.assert_allclose(found, logits.detach().numpy(), rtol=0, atol=logits_within)

            found = model.loss(self.ids, self.targets, self.padding_mask)
            found.backward()
            assert abs(found.item() - loss.item()) <= loss_within
            assert dict(model.named_parameters()).keys() == gradients.keys()
            zero = self.what_rounding_leaves_of_zero(dtype, gradients)
            for name, p in model.named_parameters():
                distance, length = (np.linalg.norm(x) for x in (p.grad - gradients[name], gradients[name]))
                assert distance <= gradient_within * length + zero, (name, dtype)

    @property
    def is_narrow(self):
        """A layer norm over a few numbers is nearly a step: it multiplies rounding by up to 1 / sqrt(epsilon).

        Layer after layer does. Only float64 has so much to spare: what was seen in twelve layers is 30 times the usual.
        """
        return self.config.n_embd < 6

    def what_rounding_leaves_of_zero(self, dtype, gradients):
        """Some gradients are 0 because terms cancel, such as those of queries that see a single key."""
        largest = max(1, *map(np.linalg.norm, gradients.values()))  # 1 is about that of the logits
        amplified = 1 / math.sqrt(self.config.layer_norm_epsilon) if self.is_narrow else 1
        return rounding(dtype, self.config.n_embd) * largest * amplified


def transformers_model(config: GPTConfig, arrays):
    """GPT2LMHeadModel in float64 with our weights, and its parameters under our names."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    settings = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.block_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_inner=config.n_inner,
        activation_function=config.activation,
        layer_norm_epsilon=config.layer_norm_epsilon,
        tie_word_embeddings=config.tie_weights,
        scale_attn_by_inverse_layer_idx=config.scale_attn_by_inverse_layer_idx,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    model = transformers.GPT2LMHeadModel(settings).double().eval()
    parameters = {name.removeprefix("transformer."): p for name, p in model.named_parameters()}
    assert parameters.keys() == arrays.keys()
    with torch.no_grad():
        for name, p in parameters.items():
            assert p.shape == arrays[name].shape
            p.copy_(torch.from_numpy(arrays[name]))
    return model, parameters


def memory():
    """Bytes that this machine has, as far as it says."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not Linux
        return math.inf


TINY = {"vocab_size": 19, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 6}


@given(fields=shapes(), seed=st.integers(0, 2**32))
@example(TINY, 12)  # head size 3
@example({**TINY, "n_head": 1}, 0)
@example({**TINY, "n_embd": 2}, 1)  # head size 1
@example({**TINY, "n_embd": 1, "n_head": 1}, 2)  # layer norm of a single number
@example({**TINY, "n_embd": 130}, 3)  # head size 65
@example({**TINY, "vocab_size": 1}, 4)
@example({**TINY, "block_size": 1}, 5)
@example({**TINY, "n_inner": 5}, 6)
@example({**TINY, "tie_weights": False}, 7)
@example({**TINY, "layer_norm_epsilon": 1e-3}, 8)
@example({**TINY, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3}, 9)
@example({**TINY, "n_layer": 12}, 14)
@example({**TINY, "activation": "gelu"}, 10)
@example({**TINY, "activation": "relu"}, 11)
def test_the_model_equals_transformers(fields, seed):
    problem = Problem(GPTConfig(**fields), seed)
    model, parameters = transformers_model(problem.config, problem.arrays)
    problem.check(model(input_ids=torch.from_numpy(problem.ids)).logits, parameters)


@pytest.mark.skipif(memory() < 10e9, reason="takes 6 GB of memory, and this machine has less than 10")
def test_gpt2_124m_equals_transformers():
    """With random weights, in its real size: 12 layers, 12 heads, 768 wide, 50,257 tokens."""
    problem = Problem(GPTConfig(), seed=13, shape=(2, 24))
    model, parameters = transformers_model(problem.config, problem.arrays)
    problem.check(model(input_ids=torch.from_numpy(problem.ids)).logits, parameters)


def test_the_loss_equals_transformers_own():
    """It computes in float32, and its labels are the ids themselves, which it shifts by one."""
    problem = Problem(GPTConfig(**TINY), seed=0)
    model, _ = transformers_model(problem.config, problem.arrays)
    ours = GPT.empty(problem.config)
    ours.load_state_dict(problem.arrays)
    ids = np.random.default_rng(0).integers(19, size=(2, 6))
    theirs = model(input_ids=torch.from_numpy(ids), labels=torch.from_numpy(ids)).loss.item()
    assert abs(ours.loss(ids[:, :-1], ids[:, 1:]).item() - theirs) <= 1e-5


@given(fields=options(), with_padding=st.booleans(), seed=st.integers(0, 2**32))
@example({**TINY, "position": "sinusoidal"}, False, 0)
@example({**TINY, "position": "sinusoidal", "n_embd": 3, "n_head": 1}, False, 1)  # an odd width: the last sine is alone
@example({**TINY, "position": "rotary", "n_embd": 8}, False, 2)
@example({**TINY, "position": "rotary", "n_embd": 4}, True, 3)  # a single pair
@example({**TINY, "bias": False}, False, 4)
@example({**TINY, "qkv_bias": False}, False, 5)
@example({**TINY, "bias": False, "qkv_bias": True}, False, 6)
@example(TINY, True, 7)
def test_options_that_transformers_lacks(fields, with_padding, seed):
    problem = Problem(GPTConfig(**fields), seed, with_padding)
    parameters = {name: torch.tensor(array, requires_grad=True) for name, array in problem.arrays.items()}
    mask = None if problem.padding_mask is None else torch.from_numpy(problem.padding_mask)
    problem.check(torch_logits(problem.config, parameters, torch.from_numpy(problem.ids), mask), parameters)
