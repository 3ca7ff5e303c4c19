"""The key/value cache: what it stores and refuses. test_gpt_options.py compares what the model makes of it."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt.config import GPTConfig
from npgpt.generation import KeyValueCache
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


def layer_of(rows, H, S, D, dtype):
    config = GPTConfig(vocab_size=5, block_size=S, n_layer=2, n_head=H, n_embd=H * D)
    cache = KeyValueCache(config, rows, dtype)
    return cache, cache.layers[1]


@pytest.mark.parametrize("dtype", [np.float32, "bf16"])
@pytest.mark.parametrize("wrong", ["dtype", "batch", "heads", "values"])
def test_keys_and_values_of_another_model_or_batch_are_refused(wrong, dtype):
    cache, layer = layer_of(2, 3, 7, 4, dtype)
    shape = {"batch": (1, 2, 3, 4), "heads": (2, 2, 4, 4)}.get(wrong, (2, 2, 3, 4))
    k = np.ones(shape, np.float64 if wrong == "dtype" else np.float32)
    with pytest.raises(ValueError, match="can't store keys"):
        layer.store(k, k[:, :1] if wrong == "values" else k)
    assert cache.length == 0


def test_a_layer_holds_what_was_stored_and_no_more_than_it_has_room_for():
    k = np.random.default_rng(0).standard_normal((2, 6, 3, 4))
    cache, layer = layer_of(2, 3, 5, 4, np.float64)
    for begin, end in ((0, 2), (2, 5)):
        keys, values = layer.store(k[:, begin:end], -k[:, begin:end])
        cache.length = end
        np.testing.assert_array_equal(keys, k[:, :end])
        np.testing.assert_array_equal(values, -k[:, :end])
    with pytest.raises(ValueError, match="a cache of 5 positions that holds 5 can't store 1 more"):
        layer.store(k[:, 5:], k[:, 5:])
    # in memory the positions of one head are neighbours
    np.testing.assert_array_equal(cache.keys[1], k[:, :5].transpose(0, 2, 1, 3))
    assert cache.keys.strides[3] == cache.keys.itemsize * 4


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


# Rows


def filled(model, *lengths, dtype=np.float64, capacity=None):
    """A cache whose rows hold so many ids of ``random_ids``."""
    cache = KeyValueCache(model.config, len(lengths), dtype, capacity)
    for row, length in enumerate(lengths):
        model(random_ids(len(lengths), 7)[row : row + 1, :length], cache=cache.rows([row]))
    return cache


@pytest.mark.parametrize("rows", [[0, 1], [2, 0], [1], [3, 2, 1, 0]])
def test_rows_in_any_order_are_like_a_cache_of_their_own(rows):
    model, ids = random_model(), random_ids(4, 7)
    cache = filled(model, 3, 3, 3, 3)
    before = cache.keys[:, :, :, :3].copy()
    found = model(ids[rows, 3:5], cache=cache.rows(rows)).data
    np.testing.assert_allclose(found, model(ids[rows, :5]).data[:, 3:], atol=1e-13)
    assert cache.lengths.tolist() == [5 if row in rows else 3 for row in range(4)]
    np.testing.assert_array_equal(cache.keys[:, :, :, :3], before)


def test_rows_that_can_not_go_through_the_model_together():
    cache = filled(random_model(), 3, 2)
    for refused, message in [
        (lambda: cache.rows([0, 1]), r"hold as much, not \[3, 2\]"),
        (lambda: cache.rows([]), "hold as much"),
        (lambda: cache.length, r"hold as much, not \[3, 2\]"),
        (lambda: cache.rows([1, 1]), "distinct"),
        (lambda: cache.rows([-1]), "distinct and counted from 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            refused()
    with pytest.raises(IndexError):
        cache.rows([2])


def test_a_capacity_below_the_block_size():
    model = random_model()
    cache = filled(model, 4, capacity=4)
    assert cache.keys.shape == (2, 1, 2, 4, 4)
    with pytest.raises(ValueError, match="a cache of 4 positions that holds 4 can't store 1 more"):
        model([[1]], cache=cache)
    assert cache.length == 4


# Copies


def test_a_fork_goes_on_like_a_text_of_its_own():
    model, ids = random_model(), random_ids(3, 7)
    cache = filled(model, 5, 1, 7)
    cache.copy_rows(0, range(3))
    assert cache.lengths.tolist() == [5, 5, 5]
    for row, id in enumerate((3, 4, 5)):
        found = model([[id]], cache=cache.rows([row])).data[0, -1]
        np.testing.assert_allclose(found, model([[*ids[0, :5], id]]).data[0, -1], atol=1e-13)


def test_a_part_of_a_row_of_another_cache():
    model, ids = random_model(), random_ids(2, 7)
    one, other = filled(model, 2, 6), KeyValueCache(model.config, 2, np.float64, capacity=5)
    other.copy_from(one, source=1, target=0, length=4)
    assert other.lengths.tolist() == [4, 0]
    found = model([[9]], cache=other.rows([0])).data[0, -1]
    np.testing.assert_allclose(found, model([[*ids[1, :4], 9]]).data[0, -1], atol=1e-13)
    for source, length in ((1, -1), (1, 6), (0, 3)):  # 6 have no room, and the first row holds 2
        with pytest.raises(ValueError, match="positions can't be copied"):
            other.copy_from(one, source, 0, length)
    for changes, dtype in (({}, np.float32), ({"n_layer": 1}, np.float64), ({"n_head": 4}, np.float64)):
        with pytest.raises(ValueError, match="can't be copied to a cache of"):
            KeyValueCache(replace(CONFIG, **changes), 1, dtype).copy_from(one, 1, 0, 4)


# bfloat16


def test_bfloat16_takes_half_the_memory_and_gives_the_same_in_one_piece_or_in_several():
    model, ids = random_model(np.float32), random_ids(1, 7)
    whole = KeyValueCache(model.config, 1, "bf16")
    expected = model(ids, cache=whole).data
    assert whole.keys.nbytes * 2 == KeyValueCache(model.config, 1).keys.nbytes
    pieces = KeyValueCache(model.config, 1, "bf16")
    found = np.concatenate([model(ids[:, a:b], cache=pieces).data for a, b in ((0, 3), (3, 4), (4, 7))], axis=1)
    # Of two keys that differ by rounding one may become the next bfloat16, and then is 2^-8 larger
    np.testing.assert_allclose(found, expected, atol=2 * 2**-8)
    for name in ("keys", "values"):
        assert (getattr(whole, name) != getattr(pieces, name)).mean() < 0.02
    assert abs(expected - model(ids).data).max() > 1e-4  # or it wouldn't be bfloat16


def test_bfloat16_is_as_close_as_its_rounding():
    """Keys and values are off by 2^-9 of their size; with weights around 1 so are scores, and the result by a few."""
    for seed in range(5):
        model = with_random_parameters(GPT.empty(CONFIG), seed)
        ids = random_ids(1, 7)
        found = model(ids, cache=KeyValueCache(model.config, 1, "bf16")).data
        np.testing.assert_allclose(found, model(ids).data, atol=10 * 2**-9)
