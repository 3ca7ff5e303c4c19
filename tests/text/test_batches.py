"""From tokens to batches: every window once an epoch, in an order that can be resumed anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.errors import ConfigError, DataError
from npgpt.text.batches import BatchSampler, TokenDataset, evaluation_batches


def test_batches_are_contiguous_writable_int64_arrays():
    for array in TokenDataset(np.arange(8, dtype=np.uint16), context=3, stride=2).batch([0, 2, 1]):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        assert array.flags.writeable


@settings(deadline=None)
@given(n=st.integers(2, 80), context=st.integers(1, 20), stride=st.integers(1, 30) | st.none())
def test_a_dataset_has_every_whole_window(n, context, stride):
    tokens = np.arange(n, dtype=np.uint16) + 7
    if n < context + 1:
        with pytest.raises(DataError):
            TokenDataset(tokens, context, stride)
        return
    windows = TokenDataset(tokens, context, stride)
    expected = [tokens[i : i + context + 1].tolist() for i in range(0, n - context, stride or context)]
    ids, targets = windows.batch(np.arange(len(windows)))
    assert np.concatenate([ids, targets[:, -1:]], axis=1).tolist() == expected
    assert (ids[:, 1:] == targets[:, :-1]).all()
    for index in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows.batch([0, index])


def test_a_dataset_refuses_too_few_tokens_and_wrong_sizes():
    with pytest.raises(DataError) as error:
        TokenDataset(np.zeros(64, np.uint16), context=64, part="validation part")
    for words in ("validation part has 64 tokens", "64 needs at least 65", "--context", "--val-fraction"):
        assert words in str(error.value)
    assert len(TokenDataset(np.zeros(65, np.uint16), context=64)) == 1
    for context, stride in ((0, 1), (-1, 1), (4, 0)):
        with pytest.raises(ConfigError):
            TokenDataset(np.zeros(65, np.uint16), context, stride)


def window_indices(ids):
    """With the tokens 0, 1, 2, ... and stride 1, a window's first token is its index."""
    return ids[:, 0].tolist()


@settings(deadline=None)
@given(n=st.integers(1, 30), batch_size=st.integers(1, 70), seed=st.integers(0, 2**63))
def test_each_epoch_has_every_window_once(n, batch_size, seed):
    batches = BatchSampler(TokenDataset(np.arange(n + 2), context=2, stride=1), batch_size, seed)
    count = -(-4 * n // batch_size)
    places = [i for k in range(count) for i in window_indices(batches.batch(k)[0])]
    for epoch in range(4):
        assert sorted(places[epoch * n : epoch * n + n]) == list(range(n))


def test_a_batch_depends_on_its_index_and_the_seed_alone():
    windows = TokenDataset(np.arange(40), context=3, stride=1)
    unbroken = BatchSampler(windows, batch_size=5, seed=3)
    expected = [unbroken.batch(k) for k in range(40)]
    for k in (39, 0, 7, 7, 8, 23):
        for fresh in (unbroken, BatchSampler(windows, batch_size=5, seed=3)):
            for got, want in zip(fresh.batch(k), expected[k], strict=True):
                np.testing.assert_array_equal(got, want)


def test_orders_are_shuffled_and_differ_by_seed_and_epoch():
    windows = TokenDataset(np.arange(51), context=1, stride=1)
    orders = [window_indices(BatchSampler(windows, 50, seed).batch(k)[0]) for seed in (0, 1) for k in (0, 1)]
    orders.append(list(range(50)))
    assert len({tuple(order) for order in orders}) == 5


def test_a_sampler_keeps_only_the_orders_in_use():
    batches = BatchSampler(TokenDataset(np.arange(51), context=1, stride=1), batch_size=20)
    for k in range(50):
        batches.batch(k)
        assert len(batches._orders) <= 2


def test_a_sampler_refuses_wrong_sizes_and_seeds():
    windows = TokenDataset(np.arange(5), context=2)
    for batch_size, seed in ((0, 0), (1, -1)):
        with pytest.raises(ConfigError):
            BatchSampler(windows, batch_size, seed)


@settings(deadline=None)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 8), count=st.integers(1, 12))
def test_evaluation_batches_are_spread_evenly(n, batch_size, count):
    windows = TokenDataset(np.arange(n + 2), context=2, stride=1)
    batches = evaluation_batches(windows, batch_size, count)
    indices = [i for ids, _ in batches for i in window_indices(ids)]
    assert len(indices) == len(set(indices)) == min(n, batch_size * count)
    assert all(len(ids) == batch_size for ids, _ in batches[:-1])
    gaps = np.diff([*indices, n])
    assert indices[0] == 0
    assert gaps.max() - gaps.min() <= 1
    for ids, targets in batches:
        assert (targets == ids + 1).all()
