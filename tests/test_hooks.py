"""Forward hooks: they see every part, change nothing, and are gone after their block."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, trace
from npgpt.hooks import forward_hook, named_modules
from npgpt.layers import Module

CONFIG = GPTConfig(vocab_size=11, block_size=4, n_layer=2, n_head=2, n_embd=8, dropout=0.3)
IDS = np.array([[1, 2, 3], [4, 5, 6]])


def gradients(model):
    model.train()
    model.loss(IDS, IDS).backward()
    return {name: p.grad.tobytes() for name, p in model.named_parameters()}


def test_every_part_is_seen_once_a_call_after_its_own_parts():
    model, seen = GPT(CONFIG), []
    with forward_hook(model, lambda name, y: seen.append((name, y.shape))):
        model.hidden_states(IDS)
    called = [name for name, _ in named_modules(model) if not name.endswith("attn_dropout")]  # attention draws its own
    assert sorted(name for name, _ in seen) == sorted(called)
    names = [name for name, _ in seen]
    assert names.index("h.0.mlp.c_fc") < names.index("h.0.mlp") < names.index("h.0") < names.index("h.1.ln_1")
    assert dict(seen)["h.1.mlp.c_fc"] == (2, 3, 32)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_is_the_same_bit_for_bit(recompute):
    plain, watched = GPT(CONFIG, seed=5), GPT(CONFIG, seed=5)
    plain.recompute = watched.recompute = recompute
    expected = gradients(plain)
    with forward_hook(watched, lambda name, y: "ignored"):
        assert gradients(watched) == expected


def test_other_models_are_not_seen_and_blocks_may_be_nested():
    first, second, seen = GPT(CONFIG), GPT(CONFIG), []
    with forward_hook(first, lambda name, y: seen.append("first")):
        with forward_hook(second, lambda name, y: seen.append("second")):
            first.wte(IDS), second.wte(IDS)
        first.wte(IDS), second.wte(IDS)
    first.wte(IDS)
    assert seen == ["first", "second", "first"]


def test_blocks_may_end_in_any_order():
    """As in two threads, or where a trace ends within a hook's block."""
    before, model, seen = Module.__call__, GPT(CONFIG), []
    blocks = {name: forward_hook(model, lambda _, y, name=name: seen.append(name)) for name in "ab"}
    blocks["a"].__enter__()
    with trace():
        blocks["b"].__enter__()
        model.wte(IDS)
    blocks["a"].__exit__(None, None, None)
    model.wte(IDS)
    blocks["b"].__exit__(None, None, None)
    model.wte(IDS)
    assert seen == ["a", "b", "b"]
    assert Module.__call__ is before


def test_a_traced_backward_pass_takes_all_that_an_untraced_one_does():
    model, done = GPT(CONFIG), []
    with trace(model):
        model.loss(IDS, IDS).backward(done=lambda leaf: done.append(leaf))
    assert set(done) == set(model.parameters())


def test_nothing_stays_after_an_error():
    before, model = Module.__call__, GPT(CONFIG)

    def fail(name, y):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), forward_hook(model, fail):
        model.wte(IDS)
    assert Module.__call__ is before
