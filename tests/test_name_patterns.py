"""Parameters by name: what a pattern covers, what is said of one that covers nothing, and rates by patterns."""

import numpy as np
import pytest

from npgpt import GPT, AdamW, GPTConfig, Tensor
from npgpt.errors import ConfigError
from npgpt.name_patterns import matches, matching, split_patterns

CONFIG = GPTConfig(vocab_size=5, block_size=4, n_layer=12, n_head=1, n_embd=2)
NAMES = [name for name, _ in GPT.empty(CONFIG).named_parameters()]


@pytest.mark.parametrize(("pattern", "count"), [
    ("wte", 1), ("wte.weight", 1), ("w?e", 2), ("h", 12 * 12), ("h.1", 12), ("h.1*", 3 * 12), ("h.11.*", 12),
    ("h.[0-3]", 4 * 12), ("*.bias", 12 * 6 + 1), ("*c_attn", 24), ("h.*.mlp", 48), ("*", 12 * 12 + 4),
])  # fmt: skip
def test_what_a_pattern_covers(pattern, count):
    assert len(matching(NAMES, pattern)) == count


@pytest.mark.parametrize("pattern", ["te", "h.1.ln", "H.1", "weight", "h.1.", ""])
def test_a_part_of_a_name_is_none(pattern):
    assert not any(matches(name, pattern) for name in NAMES)


@pytest.mark.parametrize(("pattern", "near"), [
    ("wtf", "wte"), ("h.12.*", "h.1"), ("h.3.attention.c_attn", "h.3.attn.c_attn"), ("lm_head", "wte, wpe, h, ln_f"),
    ("c_proj.*", "proj"), ("\x1b[2J", "wte, wpe, h, ln_f"),
])  # fmt: skip
def test_the_names_near_one_that_covers_nothing(pattern, near):
    with pytest.raises(ConfigError) as error:
        matching(NAMES, pattern)
    assert near in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


def test_several_patterns():
    assert split_patterns("wte, h.1.* ,ln_f") == ["wte", "h.1.*", "ln_f"]
    for text in ("", "wte,", ",", " "):
        with pytest.raises(ConfigError, match="a pattern is empty"):
            split_patterns(text)


def trained(steps=3, lr_for=None, rates=(0.1, 0.05, 0.01)):
    tensors = {name: Tensor(np.array([[1.0, -2.0]]), requires_grad=True) for name in ("a.x", "a.y", "b.x")}
    optimizer = AdamW(tensors.items(), lr=0.1, weight_decay=0.3, lr_for=lr_for)
    for step in range(steps):
        optimizer.lr = rates[step]
        optimizer.zero_grad()
        for t in tensors.values():
            (t * t * t).sum().backward()
        optimizer.step()
    return {name: t.data for name, t in tensors.items()}


def test_each_parameter_is_as_if_trained_alone_at_its_rate():
    """The schedule's rate is multiplied for it, weight decay too; of several patterns the last one counts."""
    found = trained(lr_for={"a": 0.02, "a.y": 0.3})
    np.testing.assert_array_equal(found["b.x"], trained()["b.x"])
    np.testing.assert_allclose(found["a.x"], trained(rates=(0.02, 0.01, 0.002))["a.x"], rtol=1e-14)
    np.testing.assert_allclose(found["a.y"], trained(rates=(0.3, 0.15, 0.03))["a.y"], rtol=1e-14)
    np.testing.assert_allclose(trained(lr_for={"a.y": 0.3, "a": 0.02})["a.y"], found["a.x"], rtol=1e-14)


def test_a_rate_for_nothing_that_is_trained():
    frozen = {"a": Tensor([1.0], requires_grad=True), "b": Tensor([1.0])}
    with pytest.raises(ConfigError, match=r"'b' matches no parameter that is trained\. Names near it: a"):
        AdamW(frozen.items(), lr_for={"b": 0.1})


def test_what_there_is_when_no_name_is_near():
    model = ["wte.weight", "h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"]
    with pytest.raises(ConfigError, match=r"Names near it: wte, h$"):
        matching(model, "zzz")
    adapters = [f"h.{i}.attn.{layer}.lora_{m}" for i in range(2) for layer in ("c_attn", "c_proj") for m in "ab"]
    named = r"h\.\*\.attn\.c_attn\.lora_a, h\.\*\.attn\.c_attn\.lora_b, h\.\*\.attn\.c_proj\.lora_a"
    with pytest.raises(ConfigError, match=f"Names near it: {named}"):
        matching(adapters, "zzz")
