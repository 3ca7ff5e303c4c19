"""The figures of a text, against their definitions."""

import math

import numpy as np
import pytest
from helpers.tolerances import FLOAT64_VALUE

from npgpt.scoring.perplexity import Perplexity, perplexity, token_sizes
from npgpt.scoring.spans import Spans, sliding_windows
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer

TEXT = "née in a café – naïve"


@pytest.mark.parametrize("prefix", [True, False])
def test_the_figures_are_those_of_their_definitions(model, log_probabilities, prefix):
    """A text that fits into the context is predicted from all that precedes each token."""
    ids = ByteTokenizer().encode(TEXT)[:12]
    windows = sliding_windows(ids, np.array([0]), 12, 6, 256, prefix)
    done = []
    found = perplexity(model, windows, np.ones(257, int), progress=done.append)
    whole = [256, *ids.tolist()][not prefix :]
    losses = [-log_probabilities(whole[:i])[whole[i]] for i in range(1, len(whole))]
    n = len(losses)
    close = {"rel": FLOAT64_VALUE}
    assert found.nats_per_token.value == pytest.approx(np.mean(losses), **close)
    assert found.perplexity.value == pytest.approx(math.prod(math.exp(x) for x in losses) ** (1 / n), rel=1e-11)
    assert found.bits_per_token.value == pytest.approx(np.mean(losses) / math.log(2), **close)
    assert found.bits_per_byte.value == pytest.approx(found.bits_per_token.value, **close)  # a token is a byte here
    assert (found.tokens, found.bytes, found.windows, sum(done)) == (n, n, 1, n)
    assert found.nats_per_token.error is None


def test_bytes_are_those_of_what_is_predicted():
    tokenizer = CharTokenizer.from_texts([TEXT])
    ids, sizes = tokenizer.encode(TEXT), token_sizes(tokenizer)
    for prefix in (True, False):
        windows = sliding_windows(ids, np.array([0]), 5, 3, tokenizer.end_of_text, prefix)
        found = Perplexity.of(np.arange(1.0, len(windows) + 1), windows, sizes)
        text = TEXT[not prefix :]
        assert (found.tokens, found.bytes) == (len(text), len(text.encode()))
        W = len(windows)
        assert found.bits_per_byte.value == pytest.approx(W * (W + 1) / 2 / math.log(2) / len(text.encode()))
        assert found.bits_per_token.value == pytest.approx(W * (W + 1) / 2 / math.log(2) / len(text))


def test_errors_take_windows_for_independent():
    windows = Spans.join([(np.zeros(3, int), 2), (np.zeros(4, int), 3), (np.zeros(2, int), 1)])
    sums, counts = np.array([4.0, 3.0, 5.0]), np.array([2, 3, 1])
    found = Perplexity.of(sums, windows, np.array([2]))
    error = math.sqrt(3 / 2 * ((sums - 2 * counts) ** 2).sum()) / 6
    assert found.nats_per_token.error == pytest.approx(error)
    assert found.perplexity.error == pytest.approx(math.exp(2) * error)
    assert found.bits_per_token.error == pytest.approx(error / math.log(2))
    assert found.bits_per_byte.error == pytest.approx(error / math.log(2) / 2)  # each token has two bytes


def test_token_sizes():
    sizes = token_sizes(GPT2Tokenizer())
    ids = GPT2Tokenizer().encode(TEXT)
    assert len(sizes) == 50257
    assert sizes[ids].sum() == len(TEXT.encode())
    assert token_sizes(ByteTokenizer())[:256].tolist() == [1] * 256
