"""A tiny model of bytes with random weights, in float64, for all tests of scores."""

from functools import cache

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=257, block_size=12, n_layer=2, n_head=2, n_embd=8)


@cache
def random_model(seed, dtype=np.float64):
    return with_random_parameters(GPT.empty(CONFIG, dtype), seed)


@pytest.fixture(scope="session")
def model():
    return random_model(1)


@pytest.fixture(scope="session")
def log_probabilities(model):
    """log_probabilities(ids): log p of every token after ids (n,), by one forward pass for them alone -> (V,)"""

    @cache
    def of(ids):
        logits = model([ids]).data[0, -1]
        return logits - np.log(np.exp(logits).sum())

    return lambda ids: of(tuple(ids))
