"""The trace records what an untraced run computes, and changes none of it."""

import threading

import numpy as np
import pytest
from helpers.models import with_random_parameters

import npgpt
from npgpt import GPT, AdamW, GPTConfig, Tensor, no_grad
from npgpt.layers import Module
from npgpt.teaching.interception import intercepted
from npgpt.teaching.trace import trace

IDS, TARGETS = np.array([[3, 1, 4, 1, 5]]), np.array([[1, 4, 1, 5, -100]])


def make(**options):
    config = {"vocab_size": 20, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8} | options
    return with_random_parameters(GPT(GPTConfig(**config)))


def step(model):
    """A training step -> loss, gradients, and the parameters after it, as bytes."""
    optimizer = AdamW(model.named_parameters(), lr=0.1)
    loss = model.loss(IDS, TARGETS)
    loss.backward()
    gradients = {name: p.grad.tobytes() for name, p in model.named_parameters()}
    optimizer.step()
    return loss.data.tobytes(), gradients, {name: p.data.tobytes() for name, p in model.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"tie_weights": False, "position": "rotary"}])
def test_a_traced_step_is_the_same_bit_for_bit(options):
    plain, traced = make(**options), make(**options)
    plain.train(), traced.train()
    with trace(traced) as t:
        found = step(traced)
    assert found == step(plain)
    assert sorted(o.order for o in t.operations) == list(range(len(t.operations)))


def test_recorded_values_are_those_of_an_untraced_run_bit_for_bit():
    model = make()
    with trace(model) as t:
        model.loss(IDS, TARGETS).backward()
    recorded = {v.parameter: v for v in t.values if v.parameter}
    traced = {name: p.grad for name, p in model.named_parameters()}
    model = make()
    x = model.embed(IDS, np.arange(5))
    for block, attention, mlp in zip(model.h, ("h.0", "h.1"), ("h.0.mlp", "h.1.mlp"), strict=True):
        x = block(x)
        assert np.array_equal(t.find(attention, "add")[-1].result.data, x.data)
        assert t.find(mlp, "gelu_tanh")[0].result.data.shape == (1, 5, 32)
    loss = model.loss(IDS, TARGETS)
    assert t.operations[-1].result.data == loss.data
    loss.backward()
    for name, p in model.named_parameters():
        assert np.array_equal(recorded[name].data, p.data)
        assert np.array_equal(recorded[name].gradient, p.grad), name
        assert np.array_equal(traced[name], p.grad)


def test_each_dy_is_the_sum_of_what_the_consumers_contributed():
    model = make()
    with trace(model) as t:
        model.loss(IDS, TARGETS).backward()
    several = 0
    for value in t.values:
        shares = [operation.gradients[i] for operation, i in value.used_by]
        if shares:
            several += len(shares) > 1
            np.testing.assert_allclose(sum(shares), value.gradient, rtol=0, atol=1e-5)
    assert several == 5  # the stream before and within each of 2 blocks, and the table, which is the head's too
    assert t.operations[-1].dy == 1


def test_paths_names_and_inputs():
    model = make(n_layer=1)
    with trace(model) as t:
        model.loss(IDS, TARGETS).backward()
    assert [(o.path, o.name) for o in t.operations] == [
        ("wte", "embedding"), ("wpe", "embedding"), ("", "add"),
        ("h.0.ln_1", "layernorm"), ("h.0.attn.c_attn", "linear"), ("h.0.attn", "causal_self_attention"),
        ("h.0.attn.c_proj", "linear"), ("h.0", "add"),
        ("h.0.ln_2", "layernorm"), ("h.0.mlp.c_fc", "linear"), ("h.0.mlp", "gelu_tanh"), ("h.0.mlp.c_proj", "linear"),
        ("h.0", "add"), ("ln_f", "layernorm"), ("", "linear_cross_entropy"),
    ]  # fmt: skip
    linear = t.find("h.0.attn.c_attn")[0]
    assert [v.parameter for v in linear.inputs] == ["", "h.0.attn.c_attn.weight", "h.0.attn.c_attn.bias"]
    assert linear.inputs[0].made_by is t.operations[3]
    assert [g.shape for g in linear.gradients] == [(1, 5, 8), (8, 24), (24,)]
    assert [o.index for o in sorted(t.operations, key=lambda o: o.order)][:3] == [14, 13, 12]
    assert t.find("h.0.mlp") == t.operations[9:12]


def test_a_record_does_not_change_with_what_comes_later():
    w = Tensor([[1.0, 2.0]], requires_grad=True)
    optimizer = AdamW([("w", w)], lr=0.5)
    with trace() as t:
        for _ in range(2):
            (w * w).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    first, second = t.find("", "mul")
    assert first.inputs[0].data.tolist() == [[1, 2]]
    assert second.inputs[0].data.tolist() != [[1, 2]]
    assert first.inputs[0] is first.inputs[1]
    assert first.inputs[0].gradient.tolist() == [[2, 4]]


@pytest.mark.parametrize("first", [0, 1])
def test_a_dy_is_recorded_before_the_engine_adds_to_its_memory(first):
    """reshape hands on dy itself, to which the gradient of v's other use is then added."""
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    with trace() as t:
        v = x * 2
        sums = [v.reshape(2).sum(), (v * 3).sum()]
        (sums[first] + sums[1 - first]).backward()
    assert t.find("", "reshape")[0].dy.tolist() == [1, 1]
    assert t.operations[0].dy.tolist() == [[4, 4]]


def test_a_gradient_that_adds_itself_is_recorded_as_a_contribution():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    with trace() as t:
        (x[np.array([0, 0, 2])] + x).sum().backward()
    taken = t.find("", "getitem")[0]
    assert taken.gradients[0].tolist() == [2, 0, 1]
    assert x.grad.tolist() == [3, 1, 2]


def test_without_a_way_back_there_are_no_gradients():
    with trace() as t, no_grad():
        Tensor([1.0], requires_grad=True) * 2
    assert t.operations[0].order is None
    assert (t.operations[0].gradients, t.operations[0].dy) == ((), None)


def test_it_is_closed_when_the_block_raises_and_never_open_twice():
    before = Tensor.__dict__["from_op"], Tensor.backward, Module.__call__
    with pytest.raises(ZeroDivisionError), npgpt.trace() as t:  # noqa: PT012 - what came before it is recorded
        Tensor([1.0]) * 2
        with pytest.raises(RuntimeError, match="a trace is open already"), npgpt.trace():
            pass
        Tensor([1.0]) * 2
        1 / 0  # noqa: B018
    assert (Tensor.__dict__["from_op"], Tensor.backward, Module.__call__) == before
    assert len(t.operations) == 2
    with pytest.raises(RuntimeError, match="without a gradient"), trace():
        raise RuntimeError("without a gradient")
    with trace() as t:
        Tensor([1.0]) * 2
    assert len(t.operations) == 1


def test_other_threads_pass_through():
    refused = []

    def elsewhere():
        Tensor([1.0]) * 2
        try:
            with intercepted(lambda from_op, *arguments: from_op(*arguments)):
                pass
        except RuntimeError as error:
            refused.append(str(error))

    with trace() as t:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        Tensor([1.0]) * 3
    assert len(t.operations) == 1
    assert refused == ["a trace is open already: end its with block first"]


def test_the_engine_s_errors_still_name_the_operation():
    def wrong(x):
        return Tensor.from_op(x.data, (x,), lambda dy, needs: (dy[:1],))

    with trace(), pytest.raises(RuntimeError, match="wrong"):
        wrong(Tensor([1.0, 2.0], requires_grad=True)).backward(np.ones(2))
