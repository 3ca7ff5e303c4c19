"""Through the cache, piece by piece, comes what the model makes of the whole text at once."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.tolerances import rounding
from hypothesis import given
from hypothesis import strategies as st

from npgpt.config import POSITIONS, GPTConfig
from npgpt.generation import KeyValueCache
from npgpt.generation.cache import LayerCache
from npgpt.gpt import GPT

CONFIG = GPTConfig(vocab_size=13, block_size=7, n_layer=2, n_head=2, n_embd=8)


def random_model(dtype=np.float64, **changes):
    return with_random_parameters(GPT.empty(replace(CONFIG, **changes), dtype))


def random_ids(B, T):
    return np.random.default_rng(1).integers(CONFIG.vocab_size, size=(B, T))


options = st.fixed_dictionaries(
    {
        "position": st.sampled_from(POSITIONS),
        "n_head": st.sampled_from([1, 2, 4]),
        "scale_attn_by_inverse_layer_idx": st.booleans(),
    }
)
pieces = st.lists(st.integers(1, 4), min_size=1, max_size=7).filter(lambda sizes: sum(sizes) <= CONFIG.block_size)


@given(options, pieces, st.integers(1, 3), st.sampled_from([np.float32, np.float64]))
def test_pieces_give_what_the_whole_gives(options, pieces, B, dtype):
    model = random_model(dtype, **options)
    ids = random_ids(B, sum(pieces))
    cache = KeyValueCache(model.config, B, dtype)
    found, first = [], 0
    for size in pieces:
        assert cache.length == first
        found.append(model.hidden_states(ids[:, first : first + size], cache=cache).data)
        first += size
    assert cache.length == first
    found = np.concatenate(found, axis=1)
    assert found.dtype == dtype
    # a feature is a layer norm's result, of a size around 1, after a few sums of some 30 terms each
    np.testing.assert_allclose(found, model.hidden_states(ids).data, rtol=0, atol=10 * rounding(dtype, 30))


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
        cache.append(k, k[:, :1] if wrong == "values" else k)
    assert cache.length == 0


def test_a_layer_holds_what_was_appended_and_no_more_than_it_has_room_for():
    cache, k = LayerCache((2, 5, 3, 4), np.float64), np.random.default_rng(0).standard_normal((2, 6, 3, 4))
    for begin, end in ((0, 2), (2, 5)):
        keys, values = cache.append(k[:, begin:end], -k[:, begin:end])
        np.testing.assert_array_equal(keys, k[:, :end])
        np.testing.assert_array_equal(values, -k[:, :end])
    with pytest.raises(ValueError, match="a cache of 5 positions that holds 5 can't store 1 more"):
        cache.append(k[:, 5:], k[:, 5:])


def test_an_interrupted_forward_pass_shows(monkeypatch):
    model, cache = random_model(), KeyValueCache(CONFIG, 1, np.float64)
    with monkeypatch.context() as patch:
        patch.setattr(model.h[1].attn, "forward", lambda *inputs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model([[1, 2]], cache=cache)
    with pytest.raises(ValueError, match=r"layers hold \[0, 2\] positions: a forward pass was interrupted"):
        model([[3]], cache=cache)
