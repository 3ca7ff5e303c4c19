"""A loss or a gradient that is not finite changes no weight and no moment; the tensor and the cause are named."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, ops
from npgpt.errors import TrainingDiverged
from npgpt.optim import AdamW
from npgpt.training.divergence import likely_cause
from npgpt.training.loop import train_step

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=4)
PARTS = [(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]), 0.5), (np.array([[4, 5, 6]]), np.array([[5, 6, 7]]), 0.5)]


@pytest.fixture
def model_and_optimizer():
    """A model and an optimizer that have made a step."""
    model = GPT(CONFIG, seed=1)
    optimizer = AdamW(model.named_parameters())
    train_step(model, optimizer, PARTS, 1e-3, 1.0)
    return model, optimizer


def everything(model, optimizer):
    arrays = {**model.state_dict(), **optimizer.state_dict()}
    return optimizer.steps, {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_in_any_batch(model_and_optimizer, monkeypatch, number, clip):
    """The loss is, so that only the look at the gradient can find it."""
    model, _ = model_and_optimizer
    before = everything(*model_and_optimizer)
    calls = []

    def broken(x, weight, bias=None):
        y = linear(x, weight, bias)
        if weight is model.h[1].mlp.c_fc.weight:
            calls.append(None)
            if len(calls) == 2:  # in the last of two batches
                backward = y.source.backward
                y.source.backward = lambda dy, needs: spoiled(backward(dy, needs))
        return y

    def spoiled(gradients):
        gradients[1].flat[3] = number
        return gradients

    linear = ops.linear
    monkeypatch.setattr(ops, "linear", broken)
    problem = r"step 2: the loss is 2\.\d+ and the gradient's norm (nan|inf), first of all that of h.1.mlp.c_fc.weight$"
    with np.errstate(invalid="ignore"), pytest.raises(TrainingDiverged, match=problem):
        train_step(*model_and_optimizer, PARTS, 1e-3, clip)
    assert everything(*model_and_optimizer) == before


def test_a_loss_that_is_not_finite(model_and_optimizer):
    model, _ = model_and_optimizer
    model.wte.weight.data[7] = np.inf  # a target of the second batch, and no input
    before = everything(*model_and_optimizer)
    with np.errstate(all="ignore"), pytest.raises(TrainingDiverged, match=r"step 2: the loss is (nan|inf)"):
        train_step(*model_and_optimizer, PARTS, 1e-3, 1.0)
    assert everything(*model_and_optimizer) == before
    assert likely_cause(model) == "The weight wte.weight is not finite: an update went beyond float32."


def test_the_weights_are_not_the_cause(model_and_optimizer):
    assert likely_cause(model_and_optimizer[0]).startswith("The weights are small (at most 1, in ")


def test_a_weight_of_some_thousands_is_too_large(model_and_optimizer):
    model, _ = model_and_optimizer
    model.h[1].mlp.c_fc.weight.data[0, 0] = -2000
    assert likely_cause(model).startswith("Weights have grown too large (h.1.mlp.c_fc.weight has 2e+03)")
