"""A model with packed matrices, and the decoder that uses one."""

import copy
import functools
import pickle

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig, Tensor, adapters, checkpoints, hooks, layers, no_grad, ops
from npgpt.adapters.quantized import load_quantized
from npgpt.config import WEIGHTS
from npgpt.errors import ConfigError
from npgpt.generation import Decoder
from npgpt.generation.changed_part import changed_part
from npgpt.generation.packed_model import PackedGPT

CONFIG = GPTConfig(vocab_size=40, block_size=64, n_layer=2, n_head=2, n_embd=32)
IDS = np.random.default_rng(0).integers(0, 40, 60)


@pytest.fixture
def model():
    return with_random_parameters(GPT(CONFIG))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_prompt_gives_the_same_before_and_after_steps(model, weights):
    """Before the first step float32 isn't packed; many rows and few take different kernels."""
    decoder = Decoder(model, weights)
    cache = decoder.new_cache(2)
    few, many = decoder.prefill([IDS[:5]], cache, [0]), decoder.prefill([IDS], cache, [1])
    decoder.step([1], cache, [0])
    assert cache.lengths.tolist() == [6, 60]
    cache.lengths[:] = 0
    np.testing.assert_allclose(decoder.prefill([IDS[:5]], cache, [0]), few, rtol=0, atol=1e-5)
    np.testing.assert_allclose(decoder.prefill([IDS], cache, [1]), many, rtol=0, atol=1e-5)
    cache.lengths[:] = 0
    extended = decoder.extend(IDS[:5], cache, 0)
    np.testing.assert_allclose(extended[-1:], few, rtol=0, atol=1e-5)
    assert np.abs(few - many).max() > 0.1


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("width", [8, 64])
def test_packing_changes_no_bit_of_a_small_product(width, rows):
    """The first request of a server gets the same logits as the same one later, when float32 weights are packed."""
    config = GPTConfig(vocab_size=257, block_size=64, n_layer=1, n_head=2, n_embd=width)
    decoder = Decoder(with_random_parameters(GPT(config, seed=3)), "f32")
    cache = decoder.new_cache(rows)
    prompts = [IDS[i : i + 7 + i] for i in range(rows)]
    before = decoder.prefill(prompts, cache, list(range(rows)))
    decoder.pack()
    cache.lengths[:] = 0
    np.testing.assert_array_equal(decoder.prefill(prompts, cache, list(range(rows))), before)


def test_rounding_is_what_the_bits_say(model):
    """The more bits, the nearer are the logits to the model's own."""
    with no_grad():
        expected = model(IDS[None]).data[0, -1]
    far = []
    for weights in WEIGHTS:
        decoder = Decoder(model, weights)
        cache = decoder.new_cache()
        decoder.prefill([IDS[:-1]], cache, [0])
        far.append(np.abs(decoder.step(IDS[-1:], cache, [0])[0] - expected).max() / np.abs(expected).max())
    assert far == sorted(far)
    assert far[0] < 1e-5 < far[1] < 2e-2
    assert far[2] < 5e-2 < far[3] < 0.2


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_the_model_is_not_needed_any_more(model, weights):
    decoder, cache = Decoder(model, weights), None
    found = []
    for _ in range(2):
        cache = decoder.new_cache()
        decoder.prefill([IDS[:5]], cache, [0])
        found.append(decoder.step([7], cache, [0]))
        for p in model.parameters():
            p.data[...] = np.nan
    np.testing.assert_array_equal(*found)


def test_packed_weights_are_neither_trained_nor_packed_again(model):
    packed = PackedGPT(model, "int8")
    with pytest.raises(RuntimeError, match="have no gradients"):
        packed.loss(IDS[None, :-1], IDS[None, 1:])
    with pytest.raises(RuntimeError, match="are packed"):
        packed.quantize("int4")


def test_a_weight_that_is_too_large_is_named(model):
    model.h[1].attn.c_proj.weight.data[3, 4] = 1e30
    for weights in ("int8", "int4"):
        with pytest.raises(ConfigError, match=rf"h.1.attn.c_proj's weights can't be in {weights}: .* too large"):
            Decoder(model, weights)


def test_an_id_outside_the_vocabulary_is_refused(model):
    decoder = Decoder(model, "int8")
    for id in (-1, 40):
        with pytest.raises(IndexError, match="outside the vocabulary of 40"):
            decoder.step([id], decoder.new_cache(), [0])


@pytest.mark.parametrize("position", ["learned", "rotary", "sinusoidal"])
def test_no_step_goes_beyond_the_block_size(position):
    decoder = Decoder(GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, position=position)))
    cache = decoder.new_cache(capacity=8)
    decoder.prefill([[1, 2, 3, 4]], cache, [0])
    with pytest.raises(ValueError, match=r"hold \[4\] of 4 positions"):
        decoder.step([1], cache, [0])


class SquaredReLU(layers.MLP):
    def forward(self, x):
        h = ops.relu(self.c_fc(x))
        return self.c_proj(h * h)


class RMSNorm(layers.Module):
    def __init__(self, C):
        self.weight = Tensor(np.linspace(0.5, 2, C, dtype=np.float32), requires_grad=True)

    def forward(self, x):
        return x * ((x * x).mean(-1, keepdims=True) + 1e-5) ** -0.5 * self.weight


class ParallelBlock(layers.Block):
    def forward(self, x, padding_mask=None, cache=None):
        return x + self.attn(self.ln_1(x), padding_mask, cache) + self.mlp(self.ln_2(x))


class Reversed(GPT):
    def logits(self, hidden):
        return super().logits(hidden) * -1.0


class DoubledLinear(layers.Linear):
    def forward(self, x):
        return super().forward(x) * 2.0


def _set_class(kind, *names):
    def change(model):
        for part in [getattr(block, name) for block in model.h for name in names] or model.h:
            part.__class__ = kind

    return change


def _set_norms(model):
    model.h[0].ln_1, model.h[1].ln_2, model.ln_f = RMSNorm(32), RMSNorm(32), RMSNorm(32)


def _set_method(model):
    """A method of one layer alone."""
    linear = model.h[1].mlp.c_fc
    linear.forward = lambda x: layers.Linear.forward(linear, x) * 2.0


def _attach_adapter(model):
    adapters.attach(model, adapters.new_adapter(model.config, adapters.LoRAConfig(2)))


def _set_layer_beneath_an_adapter(model):
    model.h[0].attn.c_proj.__class__ = DoubledLinear
    _attach_adapter(model)


def _set_norm_of_embeddings(model):
    model.drop = layers.LayerNorm(32, True, 1e-5, np.dtype(np.float32))


CHANGES = {
    "an activation": (lambda model: setattr(model.h[1].mlp, "activation", ops.relu), "h.1.mlp.activation"),
    "an MLP": (_set_class(SquaredReLU, "mlp"), "h.0.mlp"),
    "a block": (_set_class(ParallelBlock), "h.0"),
    "norms": (_set_norms, "h.0.ln_1"),
    "the model": (lambda model: setattr(model, "__class__", Reversed), "the class Reversed"),
    "a scale": (lambda model: setattr(model.h[1].attn, "scale", 2.0), "h.1.attn.scale"),
    "an epsilon": (lambda model: setattr(model.ln_f, "eps", 9.0), "ln_f.eps"),
    "a method": (_set_method, "h.1.mlp.c_fc.forward"),
    "fewer blocks": (lambda model: model.h.pop(), "h"),
    "a function for a part": (lambda model: setattr(model, "ln_f", lambda x: x * 2.0), "ln_f"),
    "a norm of embeddings": (_set_norm_of_embeddings, "drop"),
    "a layer beneath an adapter": (_set_layer_beneath_an_adapter, "h.0.attn.c_proj.base"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_model_that_was_changed_in_code_generates_what_it_computes(model, case):
    """What is packed computes what the config says, so a changed model must not be."""
    change, place = CHANGES[case]
    with no_grad():
        before = model([IDS[:6]]).data[0, -1]
        change(model)
        expected = model([IDS[:6]]).data[0, -1]
    assert np.abs(expected - before).max() > 0.01
    assert changed_part(model) == place
    decoder = Decoder(model)
    cache = decoder.new_cache()
    decoder.prefill([IDS[:5]], cache)
    np.testing.assert_allclose(decoder.step(IDS[5:6], cache, [0])[0], expected, rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match=f"^{place} was changed in code, and weights in int8 compute only"):
        model.quantize("int8")


@pytest.mark.parametrize(
    ("kind", "name", "place"),
    [(layers.MLP, "forward", "h.0.mlp"), (GPT, "logits", "the class GPT"), (layers.Module, "__call__", "wte")],
)
def test_a_method_of_npgpts_own_class_that_was_replaced(model, monkeypatch, kind, name, place):
    method = getattr(kind, name)
    monkeypatch.setattr(kind, name, functools.wraps(method)(lambda self, *inputs: method(self, *inputs) * 2.0))
    assert changed_part(model) == place


class MyGPT(GPT):
    """It adds a method, and one of training."""

    def report(self):
        return self.num_parameters()

    def loss(self, *inputs, **named):
        return super().loss(*inputs, **named) * 2.0


@pytest.mark.parametrize("kind", [GPT, MyGPT])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"position": "rotary", "activation": "relu", "bias": False},
        {"position": "sinusoidal", "tie_weights": False, "scale_attn_by_inverse_layer_idx": True},
    ],
)  # fmt: skip
def test_a_model_that_is_as_its_config_says_is_packed(kind, options):
    """Also while it trains, with hooks, with what is added and not called, with other weights, or with an adapter."""
    model = kind(GPTConfig(vocab_size=9, block_size=8, n_layer=2, n_head=2, n_embd=8, **options))
    model.train()
    model.recompute, model.notes, model.value_head = True, {"run": 3}, DoubledLinear(8, 1, True, np.dtype(np.float32))
    model.generate = functools.partial(model.generate, temperature=0)
    model.h[0].mlp.c_fc.bias, model.h[1].mlp = None, model.h[0].mlp
    model.loss([[1, 2]], [[2, 3]]).backward()
    _attach_adapter(model)
    with hooks.forward_hook(model, lambda name, y: None):
        assert changed_part(model) is None
    assert changed_part(copy.deepcopy(model)) is None
    assert changed_part(pickle.loads(pickle.dumps(GPT(model.config)))) is None
    assert isinstance(Decoder(model).model, PackedGPT)


def test_a_model_in_few_bits_is_as_its_config_says(model, tmp_path):
    checkpoints.save(model, tmp_path / "model")
    model = load_quantized(checkpoints.open_checkpoint(tmp_path / "model"))
    _attach_adapter(model)
    assert changed_part(model) is None


def test_attention_that_ignores_the_cache_is_noticed(model):
    class Attention(layers.CausalSelfAttention):
        def forward(self, x, padding_mask=None, cache=None):
            return super().forward(x)

    model.h[1].attn.__class__ = Attention
    with pytest.raises(RuntimeError, match=r"^the attention of h\.1 stored nothing in the cache"):
        model.generate([IDS[:5]], max_new_tokens=2)
    assert model.generate([IDS[:5]], 2, use_cache=False).shape == (1, 7)
