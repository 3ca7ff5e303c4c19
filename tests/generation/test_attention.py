"""Attention's weights are those that the model mixes values with."""

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.tolerances import rounding

from npgpt import GPT, GPTConfig
from npgpt.generation import Decoder, attention_weights
from npgpt.hooks import forward_hook
from npgpt.tensor import Tensor, no_grad

IDS = np.array([3, 1, 4, 1, 5, 9, 2])
C, H = 12, 3


def make(dtype=np.float32, **options):
    config = GPTConfig(vocab_size=20, block_size=8, n_layer=3, n_head=H, n_embd=C, **options)
    return with_random_parameters(GPT(config, dtype=dtype))


@no_grad()
def check(model, layer):
    """P v, through the output's linear layer, is what this layer's attention added when the whole model ran."""
    seen = {}
    with forward_hook(model, lambda name, y: seen.setdefault(name, y.data)):
        model.hidden_states(IDS[None])
    P = attention_weights(model, IDS, layer)
    assert P.shape == (H, len(IDS), len(IDS))
    v = seen[f"h.{layer}.attn.c_attn"][0, :, 2 * C :].reshape(-1, H, C // H).transpose(1, 0, 2)
    mixed = (P @ v).transpose(1, 0, 2).reshape(1, -1, C)
    added = model.h[layer].attn.c_proj(Tensor(mixed)).data
    return added, seen[f"h.{layer}.attn"], P


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_the_weights_lead_to_what_attention_gave(position, layer, dtype):
    model = make(dtype, position=position, scale_attn_by_inverse_layer_idx=True)
    added, given, P = check(model, layer)
    assert np.abs(added - given).max() <= rounding(dtype, C) * np.abs(given).max() * C
    assert P.dtype == dtype
    assert np.abs(P.sum(axis=-1) - 1).max() <= rounding(dtype, len(IDS))
    assert (P[:, ~np.tri(len(IDS), dtype=bool)] == 0).all()


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
def test_packed_weights(weights):
    """Rounded activations of int8 may fall to the other side, and then differ by a step of 1/127."""
    added, given, _ = check(make().quantize(weights).model, 1)
    bound = 2 / 127 if weights == "int8" else rounding(np.float32, C) * C
    assert np.abs(added - given).max() <= bound * np.abs(given).max()


def test_a_model_in_training_mode_stays_in_it_and_drops_nothing():
    model = make(dropout=0.5)
    expected = attention_weights(model, IDS, 2)
    model.train()
    assert np.array_equal(attention_weights(model, IDS, 2), expected)
    assert model.training
    assert model.h[1].training


def test_wrong_values():
    model = make()
    for ids in ([], np.zeros(9, int), IDS[None]):
        with pytest.raises(ValueError, match="ids must have shape"):
            attention_weights(model, ids, 0)
    for layer in (-1, 3):
        with pytest.raises(ValueError, match="layer must be from 0 to 2"):
            attention_weights(model, IDS, layer)
    with pytest.raises(IndexError):
        attention_weights(model, [20], 0)
    assert not model.training


def test_a_decoder_in_float64_has_its_model_as_it_is():
    model = make(np.float64)
    assert np.array_equal(attention_weights(Decoder(model).model, IDS, 1), attention_weights(model, IDS, 1))
