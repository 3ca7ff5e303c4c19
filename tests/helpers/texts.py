"""A tiny model that makes varied texts, prompts for it, and a record of what it computes."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.models import with_random_parameters
from npgpt import generation
from npgpt.config import GPTConfig
from npgpt.gpt import GPT

CONFIG = GPTConfig(vocab_size=23, block_size=8, n_layer=2, n_head=2, n_embd=8)

# Each changes something that a cache, padding or a position could get wrong.
OPTIONS = {
    "learned": {},
    "sinusoidal, own head": {"position": "sinusoidal", "tie_weights": False},
    "rotary, scaled by layer": {"position": "rotary", "scale_attn_by_inverse_layer_idx": True},
    "no biases, one head": {"bias": False, "n_head": 1, "activation": "relu"},
    "biases of qkv alone, exact gelu": {"bias": False, "qkv_bias": True, "activation": "gelu", "n_inner": 12},
}
each_option = pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)


def random_model(seed=0, dtype=np.float64, **changes) -> GPT:
    return with_random_parameters(GPT(replace(CONFIG, **changes), seed=0, dtype=dtype), seed)


def random_prompts(*lengths) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(CONFIG.vocab_size, size=length) for length in lengths]


def record(model, what) -> list:
    """Call ``what(ids, cache)`` each time that the model computes features, and return the list of what it gave."""
    results, features = [], model.hidden_states

    def recorded(ids, padding_mask=None, cache=None):
        results.append(what(ids, cache))
        return features(ids, padding_mask, cache)

    model.hidden_states = recorded
    return results


def tokens_of(model, *arguments, **options):
    """{row: its tokens}"""
    rows = {}
    for token in generation.stream(model, *arguments, **options):
        rows.setdefault(token.row, []).append(token)
    return rows


def ids_of(tokens):
    return [token.id for token in tokens]


class Always:
    """A generator whose random numbers are all the same."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


class OneOf:
    """A constraint: the new text is one of some texts, all of the same length."""

    def __init__(self, vocab_size, *texts):
        self.vocab_size, self.texts, self.n = vocab_size, texts, 0

    @property
    def finished(self):
        return self.n == len(self.texts[0])

    def allowed(self):
        allowed = np.zeros(self.vocab_size, bool)
        allowed[[text[self.n] for text in self.texts]] = True
        return allowed

    def push(self, id):
        self.texts, self.n = [text for text in self.texts if text[self.n] == id], self.n + 1

    def copy(self):
        copy = OneOf(self.vocab_size, *self.texts)
        copy.n = self.n
        return copy
