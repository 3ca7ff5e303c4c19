"""The divergence of two models."""

import math

import numpy as np
import pytest
from conftest import TEXT
from helpers.tolerances import FLOAT64_VALUE

from npgpt import GPT
from npgpt.scoring import losses
from npgpt.scoring.divergence import compare, kl_divergence
from npgpt.scoring.perplexity import perplexity
from npgpt.scoring.spans import sliding_windows
from scoring.conftest import random_model

TOKENS = np.frombuffer(TEXT[:50].encode(), np.uint8)
WINDOWS = sliding_windows(TOKENS, np.array([0]), 12, 5, 256)
SIZES = np.ones(257, int)


def changed(model, amount, dtype=np.float64):
    """A model whose weights are near another's."""
    other, noise = GPT.empty(model.config, dtype), random_model(3).state_dict()
    other.load_state_dict({name: w + amount * noise[name] for name, w in model.state_dict().items()})
    return other


def softmax(x):
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(axis=-1, keepdims=True)


def test_kl_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    p, q = rng.standard_normal((2, 40, 30), np.float32) * 3
    P, Q = softmax(p), softmax(q)
    expected = (P * np.log(P / Q)).sum(axis=-1)
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-11)
    shifted = kl_divergence(p + np.float32(64), np.log(Q))  # logits mean the same wherever their zero is
    np.testing.assert_allclose(shifted, expected, rtol=1e-3)
    assert (np.abs(kl_divergence(p, q) - kl_divergence(q, p)) > 1e-3).all()  # and its direction matters


def test_kl_of_distributions_that_are_nearly_equal():
    """To second order it is the variance of the difference of the logits, halved; in float32 it would be noise."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal((3, 1000)).astype(np.float32)
    d = 2.0**-17 * rng.integers(-1, 2, size=p.shape)
    P = softmax(p)
    second_order = ((P * d**2).sum(axis=-1) - (P * d).sum(axis=-1) ** 2) / 2
    np.testing.assert_allclose(kl_divergence(p.astype(np.float64), p + d), second_order, rtol=1e-3)
    assert (kl_divergence(p, p) == 0).all()


def test_kl_of_probabilities_that_are_zero():
    p, q = np.log([[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]]), np.zeros((2, 3))
    p[:, 2], q[1, 0] = -np.inf, -np.inf
    assert kl_divergence(p, q).tolist() == [pytest.approx(math.log(3 / 2)), math.inf]


def test_kl_of_shapes_that_do_not_fit():
    for shapes in (((2, 3), (2, 4)), ((1, 3), (2, 3)), ((3,), (3,))):
        with pytest.raises(ValueError, match="two arrays"):
            kl_divergence(*map(np.zeros, shapes))


def test_two_models_on_a_text(model):
    other, done = changed(model, 0.3), []
    found, against = compare(model, other, WINDOWS, SIZES, 3, done.append)
    assert sum(done) == WINDOWS.count == len(TOKENS)
    alone, reference = (perplexity(m, WINDOWS, SIZES, 3) for m in (model, other))
    for in_pair, by_itself in ((found, alone), (against, reference)):
        for name in ("nats_per_token", "perplexity"):
            estimate, expected = getattr(in_pair, name), getattr(by_itself, name)
            assert estimate.value == pytest.approx(expected.value, rel=FLOAT64_VALUE)
            assert estimate.error == pytest.approx(expected.error, rel=1e-9)
    assert (found.tokens, found.bytes, found.windows) == (alone.tokens, alone.bytes, alone.windows)
    kl, same, more = [], [], []
    for i, scored in enumerate(WINDOWS.scored):
        piece = WINDOWS.piece(i)
        Q, P = (softmax(m([piece[:-1]]).data[0, -scored:]) for m in (model, other))
        kl.append((P * np.log(P / Q)).sum())
        same.append((P.argmax(axis=-1) == Q.argmax(axis=-1)).sum())
        targets = np.arange(scored), piece[-scored:]
        more.append((np.log(P[targets]) - np.log(Q[targets])).sum())
    n = len(TOKENS)
    assert 0 < sum(same) < n
    assert against.kl_divergence.value == pytest.approx(sum(kl) / n, rel=FLOAT64_VALUE)
    assert against.same_likeliest.value == sum(same) / n
    assert against.nats_more.value == pytest.approx(sum(more) / n, rel=1e-9)
    difference = found.nats_per_token.value - against.nats_per_token.value
    assert against.nats_more.value == pytest.approx(difference, rel=1e-9)
    W = len(WINDOWS)
    residuals = np.array(kl) - sum(kl) / n * WINDOWS.scored
    assert against.kl_divergence.error == pytest.approx(math.sqrt(W / (W - 1) * (residuals**2).sum()) / n)


def test_blocks_of_logits_change_nothing(model, monkeypatch):
    """A batch of a text has thousands of targets, whose logits come some hundreds at a time."""
    other = changed(model, 0.3)
    expected = compare(model, other, WINDOWS, SIZES, 3)
    monkeypatch.setattr(losses, "ROWS", 7)
    for of_blocks, of_all in zip(compare(model, other, WINDOWS, SIZES, 3), expected, strict=True):
        for name, estimate in vars(of_all).items():
            found = getattr(of_blocks, name)
            if isinstance(estimate, int):
                assert found == estimate
            else:
                assert (found.value, found.error) == pytest.approx((estimate.value, estimate.error), rel=1e-9)
    found = perplexity(model, WINDOWS, SIZES, 3)
    assert found.nats_per_token.value == pytest.approx(expected[0].nats_per_token.value, rel=FLOAT64_VALUE)


def test_a_model_and_itself(model):
    found, against = compare(model, model, WINDOWS, SIZES)
    assert found.nats_per_token == against.nats_per_token
    assert (against.nats_more.value, against.nats_more.error) == (0, 0)
    assert (against.kl_divergence.value, against.same_likeliest.value) == (0, 1)


def test_the_error_of_a_difference_is_that_of_the_differences():
    """A model that was hardly changed: both find the same windows hard, and that cancels."""
    model = random_model(1, np.float32)
    _, against = compare(changed(model, 1e-3, np.float32), model, WINDOWS, SIZES)
    assert 0 < against.nats_more.error < 0.1 * against.nats_per_token.error
    assert 0 < against.kl_divergence.value < 1e-3
