"""Activation checkpointing: less is kept, and nothing else differs, not by a bit."""

import signal
import weakref

import numpy as np
import pytest
from helpers.commands import TINY, command, everything, train
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig, Tensor, no_grad
from npgpt.activation_checkpointing import checkpointed
from npgpt.config import POSITIONS
from npgpt.generation import Decoder
from npgpt.layers import Block, Dropout, Linear, Module
from npgpt.training import execute, loop

CONFIG = GPTConfig(vocab_size=13, block_size=6, n_layer=3, n_head=2, n_embd=8, dropout=0.2)
IDS, TARGETS = np.random.default_rng(0).integers(13, size=(2, 2, 6))
MASK = np.arange(12).reshape(2, 6) % 5 > 0


def random_model(config=CONFIG):
    return with_random_parameters(GPT(config, seed=0)).train()


def step(model, times=1, padding_mask=None):
    """All that a forward and a backward pass leave behind, gradients of several added up, as bits."""
    losses = []
    for _ in range(times):
        loss = model.loss(IDS, TARGETS, padding_mask)
        after_forward = model.get_rng_state()
        loss.backward()
        assert model.get_rng_state() == after_forward
        losses.append(loss.item())
    return losses, after_forward, {name: p.grad.tobytes() for name, p in model.named_parameters()}


def recomputing(model):
    model.recompute = True
    return model


@pytest.mark.parametrize("padding_mask", [None, MASK])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_same_bits(position, padding_mask):
    config = GPTConfig(**{**CONFIG.to_dict(), "position": position})
    plain, again = random_model(config), recomputing(random_model(config))
    assert step(again, 3, padding_mask) == step(plain, 3, padding_mask)


def test_within_no_grad_the_backward_pass_records_all_the_same():
    plain, again = random_model(), recomputing(random_model())
    plain, again = [(model, model.loss(IDS, TARGETS)) for model in (plain, again)]
    with no_grad():
        for _, loss in (plain, again):
            loss.backward()
    for (name, p), (_, q) in zip(plain[0].named_parameters(), again[0].named_parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, q.grad, err_msg=name)


def test_without_a_record_nothing_is_made_twice():
    model, calls = recomputing(random_model()), []
    model.h = [Counted(block, calls) for block in model.h]
    with no_grad():
        loss = model.loss(IDS, TARGETS)
    assert not loss.requires_grad
    assert loss.item() == random_model().loss(IDS, TARGETS).item()
    assert len(calls) == 3
    Decoder(model, weights=None).generate(IDS, 1)
    model.loss(IDS, TARGETS).backward()
    assert len(calls) == 3 + 3 + 3 + 3


class Counted(Module):
    def __init__(self, inner, calls):
        self.inner, self.calls = inner, calls

    def forward(self, *inputs):
        self.calls.append(1)
        return self.inner(*inputs)


class AddsInPlace(Block):
    def forward(self, x, padding_mask=None, cache=None):
        x += self.attn(self.ln_1(x), padding_mask, cache)
        x += self.mlp(self.ln_2(x))
        return x


def test_a_block_that_adds_in_place():
    models = [random_model(), recomputing(random_model())]
    for model in models:
        for block in model.h:
            block.__class__ = AddsInPlace
    assert step(models[0], times=2) == step(models[1], times=2) == step(random_model(), times=2)


def test_of_a_block_its_input_alone_is_kept(monkeypatch):
    """An array that the block makes inside, and that its backward pass needs, is gone until that comes by."""
    made, alive = [], []
    forward = Block.forward

    def watched(self, x, *others):
        inside = np.ones(3, np.float32)
        made.append(weakref.ref(inside))
        y = forward(self, x, *others)

        def backward(dy, needs):
            alive.append(sum(ref() is not None for ref in made))
            return (dy * inside[0],)

        return Tensor.from_op(y.data, (y,), backward)

    monkeypatch.setattr(Block, "forward", watched)
    for model, while_passing in ((random_model(), [3, 2, 1]), (recomputing(random_model()), [1, 1, 1])):
        made.clear()
        alive.clear()
        model.loss(IDS, TARGETS).backward()
        assert alive == while_passing
        assert not any(ref() is not None for ref in made)


def test_gradients_of_shared_weights_add_up():
    """A weight that two recomputed uses and a plain one share, and an input that wants no gradient."""
    rng = np.random.default_rng(0)
    layer = with_random_parameters(Linear(3, 3, True, np.float64))
    with_random_parameters(layer)
    x = rng.standard_normal((2, 3))

    def gradients(use, wanted):
        layer.weight.grad = layer.bias.grad = None
        start = Tensor(x, requires_grad=wanted)
        use(use(layer(start))).sum().backward()
        return [layer.weight.grad, layer.bias.grad, start.grad]

    for wanted in (True, False):
        expected = gradients(layer, wanted)
        found = gradients(lambda x: checkpointed(layer, rng, x), wanted)
        assert (found[2] is None) == (not wanted)
        for one, other in zip(found[: 2 + wanted], expected, strict=False):
            np.testing.assert_allclose(one, other, rtol=1e-14)


class Twice(Module):
    """Has one layer under two names, and one that it doesn't use; drops in between."""

    def __init__(self, rng):
        self.one = self.other = Linear(3, 3, True, np.float64)
        self.unused = Linear(3, 3, True, np.float64)
        self.drop = Dropout(0.3, rng)

    def forward(self, x):
        return self.other(self.drop(self.one(x)))


class Nested(Module):
    def __init__(self, inner, rng):
        self.inner, self.rng, self.drop = inner, rng, Dropout(0.3, rng)

    def forward(self, x):
        return self.drop(checkpointed(self.inner, self.rng, self.drop(x)))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_one_within_the_other(depth):
    results = []
    for outermost in (lambda module, rng, x: module(x), checkpointed):
        rng = np.random.default_rng(3)
        module = inner = with_random_parameters(Twice(rng))
        for _ in range(depth):
            module = Nested(module, rng)
        module.train()
        x = Tensor(np.ones((40, 3)), requires_grad=True)
        y = outermost(module, rng, x)
        y.backward(np.random.default_rng(4).standard_normal(y.shape))
        assert inner.unused.weight.grad is None
        results.append([y.data, x.grad, inner.one.weight.grad, inner.one.bias.grad, rng.random()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interruption_leaves_no_trace(monkeypatch):
    """Ctrl-C while a block is computed again; the next step is what it would have been."""
    plain, again = random_model(), recomputing(random_model())
    for model in (plain, again):
        loss = model.loss(IDS, TARGETS)
    with monkeypatch.context() as patch:
        patch.setattr(Linear, "forward", lambda self, x: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loss.backward()
    for _, p in again.named_parameters():
        p.grad = None
    assert step(again) == step(plain)


def test_eval_before_the_backward_pass_is_refused():
    """The forward pass that it repeats would be another."""
    model = recomputing(random_model())
    loss = model.loss(IDS, TARGETS)
    model.eval()
    with pytest.raises(RuntimeError, match="came between the forward pass and the backward pass"):
        loss.backward()


# Runs

RUN = ("text.txt", *TINY, "--n-layer", 2, "--dropout", 0.2, "--grad-accum", 2, "--max-steps", 6, "--eval-every", 3)


def written(run):
    """All that a run has written, but for the setting itself."""
    of = everything(run)
    return of, of["config"]["training"].pop("recompute")


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): Ctrl-C after the n-th step."""
    step = loop.train_step

    def set_to(n):
        def counted(model, optimizer, *others):
            result = step(model, optimizer, *others)
            if optimizer.steps == n:
                signal.raise_signal(signal.SIGINT)
            return result

        monkeypatch.setattr(loop, "train_step", counted)

    return set_to


def test_a_run_is_the_same(folder, monkeypatch):
    seen = []
    loss = GPT.loss
    monkeypatch.setattr(execute, "compile_for_training", lambda *of, **options: None)
    monkeypatch.setattr(GPT, "loss", lambda self, *batch: seen.append(self.recompute) or loss(self, *batch))
    (plain, _), (again, _) = train(folder, *RUN), train(folder, *RUN, "--recompute")
    assert set(seen[: len(seen) // 2]) == {False}
    assert set(seen[len(seen) // 2 :]) == {True}
    assert (written(plain)[1], written(again)[1]) == (False, True)
    assert written(plain)[0] == written(again)[0]


@pytest.mark.parametrize(("first", "then"), [("--no-recompute", "--recompute"), ("--recompute", "--no-recompute")])
def test_a_run_that_goes_on_otherwise(folder, stop_after, first, then):
    unbroken, _ = train(folder, *RUN)
    stop_after(4)
    ended = command("train", *RUN, first, "--out", "stopped", cwd=folder)
    assert "stopped after step 4" in ended.err
    stop_after(0)
    assert command("train", "--resume", "stopped", then, cwd=folder).code == 0
    assert written(folder / "stopped")[0] == written(unbroken)[0]
    assert written(folder / "stopped")[1] == (then == "--recompute")
