"""Frozen parameters: exactly the products are made that the trainable ones need, and these train as before."""

from collections import Counter

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import GPT, AdamW, GPTConfig, Tensor, kernels, ops
from npgpt.optim import clip_grad_norm

CONFIG = GPTConfig(vocab_size=13, block_size=6, n_layer=3, n_head=2, n_embd=8)
IDS, TARGETS = np.random.default_rng(0).integers(13, size=(2, 2, 6))


def model_that_trains(trainable):
    model = with_random_parameters(GPT.empty(CONFIG)).train()
    for name, p in model.named_parameters():
        p.requires_grad = trainable(name)
    return model


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of each kernel from now on."""
    counts = Counter()

    def counted(name):
        kernel = getattr(kernels, name)
        return lambda *arguments, **named: counts.update([name]) or kernel(*arguments, **named)

    for name in kernels.KERNELS:
        monkeypatch.setattr(kernels, name, counted(name))
    return counts


FORWARD = 3 * 4 + 1  # in each block c_attn, attn.c_proj, c_fc and mlp.c_proj; then the head

# What trains; the products for gradients; the sums for biases; the backward passes of attention and of layernorm; the
# blocks whose forward pass is made again if activations are recomputed.
CASES = {
    "all": (lambda name: True, (2 + 4 + 4) + 2 * (4 + 4), 12, 3, 7, 3),
    "the upper two blocks": (lambda name: name.startswith(("h.1.", "h.2.", "ln_f")), 1 + 2 * (4 + 4), 8, 2, 5, 2),
    "a block's biases": (lambda name: name.startswith("h.1.") and name.endswith("bias"), 1 + 2 * 4, 4, 2, 5, 2),
    "c_attn's bias in a block": (lambda name: name == "h.1.attn.c_attn.bias", 1 + 4 + 3, 1, 2, 4, 2),
    "layer norms": (lambda name: "ln_" in name, 1 + 3 * 4, 0, 3, 7, 3),
    "the head's own layer norm": (lambda name: "ln_f" in name, 1, 0, 0, 1, 0),
    "embeddings": (lambda name: name.startswith("w"), 2 + 3 * 4, 0, 3, 7, 3),
    "nothing": (lambda name: False, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_products_that_are_made(case, recompute, calls):
    trainable, products, biases, attentions, norms, blocks = CASES[case]
    model = model_that_trains(trainable)
    model.recompute = recompute
    loss = model.loss(IDS, TARGETS)
    if case != "nothing":
        loss.backward()
    assert calls["matmul"] == FORWARD + products + 4 * blocks * recompute
    assert calls["sum_rows"] == biases
    assert calls["attention_backward"] == calls["gelu_tanh_backward"] == attentions
    assert calls["layernorm_backward"] == norms
    assert calls["embedding_backward"] == (2 if case in ("all", "embeddings") else 0)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_what_trains_are_the_same_to_the_bit(case, recompute):
    everything, some = model_that_trains(lambda name: True), model_that_trains(CASES[case][0])
    some.recompute = recompute
    for model in (everything, some):
        loss = model.loss(IDS, TARGETS)
        if loss.requires_grad:
            loss.backward()
    for (name, p), (_, q) in zip(some.named_parameters(), everything.named_parameters(), strict=True):
        if p.requires_grad:
            np.testing.assert_array_equal(p.grad, q.grad, err_msg=name)
        else:
            assert p.grad is None, name


def test_a_training_loop_changes_what_trains_alone():
    model = model_that_trains(lambda name: name.startswith("h.1."))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    optimizer = AdamW(model.named_parameters(), lr=1e-2)
    assert {name.split(".", 1)[1] for name in optimizer.state_dict()} == {n for n in before if n.startswith("h.1.")}
    losses = []
    for _ in range(20):
        loss = model.loss(IDS, TARGETS)
        loss.backward()
        losses.append(loss.item())
        clip_grad_norm(model.trainable_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5
    for name, array in model.state_dict().items():
        assert (array != before[name]).any() == name.startswith("h.1."), name


OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "@": lambda a, b: a @ b,
    "linear": lambda a, b: ops.linear(a, b),
    "linear_cross_entropy": lambda a, b: ops.linear_cross_entropy(a, b.T, [0, 1]),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_an_operand_that_is_a_constant_gets_no_gradient(operator, needs, calls):
    a, b = (Tensor(np.full((2, 2), 2.0), requires_grad=need) for need in needs)
    y = OPERATORS[operator](a, b)
    needs += (False,) * (len(y.source.parents) - 2)  # a bias that is absent
    found = y.source.backward(np.ones(y.shape), needs)
    assert tuple(dx is not None for dx in found) == needs
    assert calls["matmul"] == {"@": 2, "linear": 2, "linear_cross_entropy": 2}.get(operator, 0)
