"""What must hold of a model of any configuration, without a reference: its symmetries, and what it may not see.

Everything is computed in float64. Two ways to the same number may round differently; numbers are then the same up to
tolerances.FLOAT64_VALUE or FLOAT64_GRADIENT of the largest. Where the arithmetic is the same, so are the bits.
"""

from itertools import pairwise

import numpy as np
import pytest
from helpers.arrays import few, seeds
from helpers.models import with_random_parameters
from helpers.tolerances import FLOAT64_GRADIENT, FLOAT64_VALUE
from hypothesis import given
from hypothesis import strategies as st

from npgpt.config import ACTIVATIONS, POSITIONS, GPTConfig
from npgpt.gpt import GPT

BLOCK_SIZE = 6


@st.composite
def models(draw, positions=POSITIONS, vocabularies=(1, 2, 13)):
    yes_or_no = st.booleans()
    config = GPTConfig(
        vocab_size=draw(st.sampled_from(vocabularies)),
        block_size=BLOCK_SIZE,
        n_layer=draw(st.integers(1, 2)),
        n_head=draw(st.sampled_from([1, 2, 4])),
        n_embd=8,
        n_inner=draw(st.sampled_from([None, 1, 5])),
        bias=draw(yes_or_no),
        qkv_bias=draw(yes_or_no),
        tie_weights=draw(yes_or_no),
        position=draw(st.sampled_from(positions)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        scale_attn_by_inverse_layer_idx=draw(yes_or_no),
    )
    return with_random_parameters(GPT.empty(config, np.float64), draw(seeds))


def ids_for(model, B, T, seed):
    return np.random.default_rng(seed).integers(model.config.vocab_size, size=(B, T))


def targets_for(model, ids, seed):
    """Targets of which some, and now and then all of a text, are ignored."""
    rng = np.random.default_rng([seed, 1])
    targets = rng.integers(model.config.vocab_size, size=ids.shape)
    targets[rng.random(ids.shape) < rng.choice([0, 0.3, 0.8])] = -100
    return targets


def gradients(model, *losses):
    """{name of a parameter: the gradient of the sum of the losses, each walked back by itself}"""
    for _, p in model.named_parameters():
        p.grad = None
    for loss in losses:
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same(result, expected, tolerance=FLOAT64_VALUE):
    assert result.shape == expected.shape
    largest = max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * largest)


def assert_same_gradients(result, expected):
    assert result.keys() == expected.keys()
    for name in expected:
        assert_same(result[name], expected[name], FLOAT64_GRADIENT)


lengths = st.integers(1, BLOCK_SIZE)
one_or_more = st.integers(1, 4)


# What a position may see


@given(models(), few, lengths, seeds, st.integers(0, BLOCK_SIZE))
def test_adding_tokens_leaves_earlier_logits_as_they_are(model, B, T, seed, cut):
    ids = ids_for(model, B, T, seed)
    cut %= T + 1
    assert_same(model(ids[:, :cut]).data, model(ids).data[:, :cut])


@given(models(vocabularies=[2, 13]), one_or_more, lengths, seeds, st.integers(0, BLOCK_SIZE - 1))
def test_another_token_changes_what_follows_and_nothing_before(model, B, T, seed, t):
    ids, t = ids_for(model, B, T, seed), t % T
    changed = ids.copy()
    changed[:, t] = (ids[:, t] + 1) % model.config.vocab_size
    before, after = model(ids).data, model(changed).data
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    assert (np.abs(after[:, t] - before[:, t]).max(axis=-1) > FLOAT64_VALUE).all()


@given(models(), one_or_more, lengths, seeds, st.integers(0, BLOCK_SIZE - 1))
def test_a_loss_has_no_gradient_in_what_comes_later(model, B, T, seed, t):
    """Of the loss at position t alone: the rows of tokens and of positions that only come later get zeros."""
    ids, t = ids_for(model, B, T, seed), t % T
    targets = np.full((B, T), -100)
    targets[:, t] = 0
    found = gradients(model, model.loss(ids, targets))
    if model.config.position == "learned":
        np.testing.assert_array_equal(found["wpe.weight"][t + 1 :], 0)
    if not model.config.tie_weights:
        only_later = np.setdiff1d(ids[:, t + 1 :], ids[:, : t + 1])
        np.testing.assert_array_equal(found["wte.weight"][only_later], 0)


# Batches


@given(models(), few, st.integers(0, BLOCK_SIZE), seeds)
def test_another_order_of_the_texts_reorders_the_logits(model, B, T, seed):
    """They know nothing of each other: each has the logits that it has alone."""
    ids = ids_for(model, B, T, seed)
    logits = model(ids).data
    assert logits.shape == (B, T, model.config.vocab_size)
    order = np.random.default_rng(seed).permutation(B)
    assert_same(model(ids[order]).data, logits[order])
    for row, alone in zip(logits, ids, strict=True):
        assert_same(model(alone[None]).data[0], row)


@given(models(), one_or_more, lengths, seeds, st.lists(st.integers(0, 4), max_size=3))
def test_gradients_of_micro_batches_add_up_to_those_of_one_batch(model, B, T, seed, cuts):
    """Cut anywhere. Each loss is a mean over its own targets, so it weighs as much as it has of all of them."""
    ids = ids_for(model, B, T, seed)
    targets = targets_for(model, ids, seed)
    targets[0, 0] = 0  # so that there is one at all
    counted = (targets != -100).sum()
    edges = sorted([0, B, *(cut % (B + 1) for cut in cuts)])
    losses = []
    for start, stop in pairwise(edges):
        n = (targets[start:stop] != -100).sum()
        if n:  # without any target the mean is NaN, and weighs nothing
            losses.append(model.loss(ids[start:stop], targets[start:stop]) * (n / counted))
    whole = model.loss(ids, targets)
    assert_same(np.array(sum(loss.item() for loss in losses)), whole.data)
    assert_same_gradients(gradients(model, *losses), gradients(model, whole))


@given(models(), one_or_more, lengths, seeds, st.integers(-20, 20), st.sampled_from([1, -1]))
def test_a_multiple_of_the_loss_has_that_multiple_of_the_gradients(model, B, T, seed, exponent, sign):
    """To the last bit, since a power of two is only another exponent."""
    factor = sign * 2.0**exponent
    ids, targets = ids_for(model, B, T, seed), ids_for(model, B, T, seed + 1)
    once = gradients(model, model.loss(ids, targets))
    multiple = gradients(model, model.loss(ids, targets) * factor)
    for name, gradient in once.items():
        np.testing.assert_array_equal(multiple[name], gradient * factor, err_msg=name)


@pytest.mark.parametrize(("B", "T"), [(0, 3), (2, 0), (0, 0)])
@given(model=models())
def test_a_batch_of_nothing(B, T, model):
    """It has logits of its shape, a loss that is NaN like all means of nothing, and gradients of zero."""
    ids = np.zeros((B, T), np.int64)
    assert model(ids).shape == (B, T, model.config.vocab_size)
    loss = model.loss(ids, ids)
    assert np.isnan(loss.item())
    for name, gradient in gradients(model, loss).items():
        np.testing.assert_array_equal(gradient, 0, err_msg=name)


# The vocabulary


@given(models(), one_or_more, lengths, seeds)
def test_another_numbering_of_the_vocabulary_renumbers_the_logits(model, B, T, seed):
    """And leaves the loss, and renumbers its gradients."""
    ids = ids_for(model, B, T, seed)
    targets = targets_for(model, ids, seed)
    targets[0, 0] = 0
    logits, loss = model(ids).data, model.loss(ids, targets)
    expected = gradients(model, loss)

    numbering = np.random.default_rng(seed).permutation(model.config.vocab_size)  # v now means what numbering[v] meant
    new_number = np.argsort(numbering)
    by_token = ["wte.weight"] + ["lm_head.weight"] * (not model.config.tie_weights)
    parameters = dict(model.named_parameters())
    for name in by_token:
        parameters[name].data[...] = parameters[name].data[numbering]
        expected[name] = expected[name][numbering]
    new_ids, new_targets = new_number[ids], np.where(targets == -100, -100, new_number[np.maximum(targets, 0)])
    assert_same(model(new_ids).data, logits[..., numbering])
    new_loss = model.loss(new_ids, new_targets)
    assert_same(new_loss.data, loss.data)
    assert_same_gradients(gradients(model, new_loss), expected)


# Padding


@given(models(), few, lengths, seeds)
def test_nobody_looks_at_padding(model, B, T, seed):
    """Not even where all that a position could see is padding."""
    ids, rng = ids_for(model, B, T, seed), np.random.default_rng(seed)
    real = rng.random(ids.shape) < 0.6
    logits = model(ids, padding_mask=real).data
    assert np.isfinite(logits).all()
    others = np.where(real, ids, rng.integers(model.config.vocab_size, size=ids.shape))
    np.testing.assert_array_equal(model(others, padding_mask=real).data[real], logits[real])


@given(models(), few, lengths, seeds)
def test_padding_at_the_end_is_as_if_it_were_cut_off(model, B, T, seed):
    ids = ids_for(model, B, T, seed)
    kept = np.random.default_rng(seed).integers(1, T + 1, size=B)
    logits = model(ids, padding_mask=np.arange(T) < kept[:, None]).data
    for row, text, n in zip(logits, ids, kept, strict=True):
        assert_same(row[:n], model(text[None, :n]).data[0])
    np.testing.assert_array_equal(model(ids, padding_mask=np.ones((B, T), bool)).data, model(ids).data)


@given(models(positions=["rotary"]), one_or_more, lengths, seeds)
def test_rotary_positions_are_distances_so_padding_in_front_changes_nothing(model, B, T, seed):
    ids = ids_for(model, B, T, seed)
    cut = np.random.default_rng(seed).integers(0, T, size=B)
    logits = model(ids, padding_mask=np.arange(T) >= cut[:, None]).data
    for row, text, n in zip(logits, ids, cut, strict=True):
        assert_same(row[n:], model(text[None, n:]).data[0])
