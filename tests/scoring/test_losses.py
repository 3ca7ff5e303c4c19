"""Losses of single tokens, against one forward pass for each."""

import numpy as np
import pytest
from conftest import TEXT
from helpers.tolerances import FLOAT64_VALUE

from npgpt import kernels
from npgpt.ops.linear_cross_entropy import ROWS
from npgpt.scoring.losses import logit_blocks, score, token_losses
from npgpt.scoring.spans import Spans, sliding_windows
from scoring.conftest import CONFIG, random_model

TOKENS = np.frombuffer(TEXT[:41].encode(), np.uint8)


@pytest.mark.parametrize(("context", "stride"), [(12, 6), (12, 12), (5, 1), (7, 3), (1, 1)])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_token_has_the_loss_of_its_own_forward_pass(model, log_probabilities, context, stride, prefix, batch_size):
    windows = sliding_windows(TOKENS, np.array([0]), context, stride, 256, prefix)
    losses, greedy = np.full(len(TOKENS), np.nan), np.zeros(len(TOKENS), bool)
    done = []
    for i, of_tokens, right in score(model, windows, batch_size, done.append):
        places = slice(windows.end[i] - windows.scored[i], windows.end[i])
        assert np.isnan(losses[places]).all()
        losses[places], greedy[places] = of_tokens, right
    assert sum(done) == windows.count
    ids = [256, *TOKENS.tolist()]
    for i, token in enumerate(TOKENS.tolist()):
        if i == 0 and not prefix:
            assert np.isnan(losses[0])
            continue
        # The window that predicts token i first: the first, or that which ends next behind i.
        first_end = context + 1 - prefix
        begin = 0 if i < first_end else -(-(i + 1 - first_end) // stride) * stride
        begin += not prefix
        log_p = log_probabilities(ids[begin : i + 1])
        np.testing.assert_allclose(losses[i], -log_p[token], rtol=FLOAT64_VALUE)
        assert greedy[i] == (log_p.argmax() == token)


def test_what_a_batch_is_made_of_changes_nothing(model):
    """Pieces of unequal length, alone and together: padding is not looked at."""
    rng = np.random.default_rng(0)
    pieces = [(rng.integers(256, size=n), rng.integers(1, n)) for n in (2, 13, 7, 3, 12)]
    together = {span: losses for span, losses, _ in score(model, Spans.join(pieces), 5)}
    for i, piece in enumerate(pieces):
        ((_, losses, _),) = score(model, Spans.join([piece]), 1)
        np.testing.assert_allclose(together[i], losses, rtol=FLOAT64_VALUE)


def test_logits_are_made_in_blocks_and_only_where_they_are_wanted(model, monkeypatch):
    ids = np.random.default_rng(0).integers(256, size=(90, 12))
    positions = np.arange(5, 1080, 2)
    expected = model(ids).data.reshape(1080, -1)[positions]
    multiplied = []
    matmul = kernels.matmul
    monkeypatch.setattr(kernels, "matmul", lambda *of: multiplied.append(len(of[0])) or matmul(*of))
    blocks = [*logit_blocks(model, ids, positions)]
    head = multiplied[-len(blocks) :]
    assert head == [*map(len, blocks)] == [ROWS, len(positions) - ROWS]
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=1e-11)


def test_dropout_is_off_and_the_mode_stays():
    model = random_model(1, np.float32)
    spans = Spans.join([(np.arange(9), 8)])
    ((_, expected, _),) = score(model, spans)
    model.train()
    model.drop.p = 0.5
    try:
        ((_, losses, _),) = score(model, spans)
        assert model.training
    finally:
        model.drop.p = 0.0
        model.eval()
    np.testing.assert_array_equal(losses, expected)


def test_of_several_likeliest_tokens_the_first_counts():
    losses, greedy = token_losses(np.array([[1.0, 3.0, 3.0]] * 3), np.arange(3))
    assert greedy.tolist() == [False, True, False]
    np.testing.assert_allclose(losses, np.log(2 + np.exp(-2)) + np.array([2, 0, 0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(bad):
    logits = np.zeros((2, 3), np.float32)
    logits[1, 2] = bad
    with pytest.raises(FloatingPointError, match="damaged or have diverged"):
        token_losses(logits, np.array([0, 2]))


def test_a_piece_that_the_model_can_not_see_whole(model):
    longest = Spans.join([(np.zeros(CONFIG.block_size + 1, int), 1)])
    assert len([*score(model, longest)]) == 1
    with pytest.raises(ValueError, match="block_size is 12"):
        [*score(model, Spans.join([(np.zeros(CONFIG.block_size + 2, int), 1)]))]
