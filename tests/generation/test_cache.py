"""The key/value cache: what it stores and refuses. test_gpt_options.py compares what the model makes of it."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt.config import GPTConfig
from npgpt.generation import KeyValueCache
from npgpt.generation.cache import LayerCache
from npgpt.gpt import GPT

CONFIG = GPTConfig(vocab_size=13, block_size=7, n_layer=2, n_head=2, n_embd=8)


def random_model(dtype=np.float64, **changes):
    return with_random_parameters(GPT.empty(replace(CONFIG, **changes), dtype))


def random_ids(B, T):
    return np.random.default_rng(1).integers(CONFIG.vocab_size, size=(B, T))


def test_a_full_cache_takes_no_more():
    model = random_model()
    cache = KeyValueCache(model.config, 1, np.float64)
    model.hidden_states(random_ids(1, 5), cache=cache)
    with pytest.raises(ValueError, match=r"8 tokens.*block_size is 7"):
        model.hidden_states(random_ids(1, 3), cache=cache)
    assert cache.length == 5


def test_two_caches_are_separate():
    model = random_model()
    one, other = (KeyValueCache(model.config, 1, np.float64) for _ in range(2))
    model.hidden_states([[1, 2]], cache=one)
    model.hidden_states([[3]], cache=other)
    assert (one.length, other.length) == (2, 1)
    expected = model.hidden_states([[1, 2, 4]]).data[:, -1]
    np.testing.assert_allclose(model.hidden_states([[4]], cache=one).data[:, -1], expected, atol=1e-13)


@pytest.mark.parametrize("wrong", ["dtype", "batch", "heads", "values"])
def test_keys_and_values_of_another_model_or_batch_are_refused(wrong):
    cache = LayerCache((2, 7, 3, 4), np.float32)
    shape, dtype = {"batch": (1, 2, 3, 4), "heads": (2, 2, 4, 4)}.get(wrong, (2, 2, 3, 4)), np.float32
    k = np.ones(shape, np.float64 if wrong == "dtype" else dtype)
    with pytest.raises(ValueError, match="can't store keys"):
        cache.store(k, k[:, :1] if wrong == "values" else k)
    assert cache.length == 0


def test_a_layer_holds_what_was_stored_and_no_more_than_it_has_room_for():
    cache, k = LayerCache((2, 5, 3, 4), np.float64), np.random.default_rng(0).standard_normal((2, 6, 3, 4))
    for begin, end in ((0, 2), (2, 5)):
        keys, values = cache.store(k[:, begin:end], -k[:, begin:end])
        cache.length = end
        np.testing.assert_array_equal(keys, k[:, :end])
        np.testing.assert_array_equal(values, -k[:, :end])
    with pytest.raises(ValueError, match="a cache of 5 positions that holds 5 can't store 1 more"):
        cache.store(k[:, 5:], k[:, 5:])


@pytest.mark.parametrize("part", ["attn", "mlp"])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_an_interrupted_forward_pass_leaves_no_trace(monkeypatch, n_layer, part):
    """Whether the last layer has stored its keys or not, the same tokens can be given again."""
    model = random_model(n_layer=n_layer)
    cache = KeyValueCache(model.config, 1, np.float64)
    model([[1, 2]], cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(getattr(model.h[-1], part), "forward", lambda *inputs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model([[3]], cache=cache)
    assert cache.length == 2
    np.testing.assert_allclose(model([[4]], cache=cache).data[0, -1], model([[1, 2, 4]]).data[0, -1], atol=1e-13)


def test_a_cache_goes_back():
    model = random_model()
    cache = KeyValueCache(model.config, 1, np.float64)
    model([[1, 2, 3]], cache=cache)
    cache.length = 1
    np.testing.assert_allclose(model([[4]], cache=cache).data[0, -1], model([[1, 4]]).data[0, -1], atol=1e-13)
