"""Speculative decoding: tokens that are drawn have exactly the model's distribution, whatever the draft is."""

import math

import numpy as np
import pytest
from helpers.table_decoder import TableDecoder, exact_distribution
from helpers.texts import Always, ids_of

from npgpt.generation import Sampling
from npgpt.generation.constraints import Choices
from npgpt.generation.speculation import accept_or_redraw, speculate
from npgpt.text.tokenizers import CharTokenizer

V = 3
PROMPT = [0, 1]
rng = np.random.default_rng(0)
TABLE = 1.5 * rng.standard_normal((V, V, V))
TABLE_DRAFTS = {
    "equal": TABLE,
    "near": TABLE + 0.5 * rng.standard_normal((V, V, V)),
    "unlike": 1.5 * rng.standard_normal((V, V, V)),
    "opposite": -2 * TABLE,
}
FILTERS = {"temperature": 0.8, "top_k": 2, "repetition_penalty": 1.5, "frequency_penalty": 0.5}


def disjoint(first, second):
    """Two tables: the first never gives the token 2, the second gives nothing else."""
    first, second = first.copy(), second.copy()
    first[..., 2], second[..., :2] = -math.inf, -math.inf
    return first, second


def chi_square_bound(degrees, chance=1e-3):
    """What Pearson's sum exceeds with at most this chance (Laurent & Massart 2000, lemma 1, inequality 4.3)."""
    x = -math.log(chance)
    return degrees + 2 * math.sqrt(degrees * x) + 2 * x


def counted(decoder, draft, sampling, draws, constraint=None):
    counts = np.zeros([V] * 3)
    for seed in range(draws):
        tokens = speculate(decoder, draft, PROMPT, 3, sampling, seed, drafted=2, constraint=constraint)
        counts[tuple(ids_of(tokens))] += 1
    return counts


def pearson(counts, p):
    """-> the sum over cells, their number - 1; those in which fewer than 5 are expected are one cell."""
    expected = counts.sum() * p
    assert (counts[p == 0] == 0).all()
    rare = (expected < 5) & (p > 0)
    pairs = [*zip(counts[expected >= 5], expected[expected >= 5], strict=True)]
    if rare.any():
        pairs.append((counts[rare].sum(), expected[rare].sum()))
    return sum((n - e) ** 2 / e for n, e in pairs), len(pairs) - 1


@pytest.mark.parametrize("settings", [{"temperature": 1.0, "top_k": None}, FILTERS], ids=["plain", "filters"])
@pytest.mark.parametrize("draft", [*TABLE_DRAFTS, "disjoint"])
def test_three_drawn_tokens_have_the_exact_joint_distribution(draft, settings):
    table, other = disjoint(TABLE, TABLE) if draft == "disjoint" else (TABLE, TABLE_DRAFTS[draft])
    decoder, sampling = TableDecoder(table), Sampling(**settings)
    p = exact_distribution(decoder, PROMPT, 3, sampling)
    assert p.sum() == pytest.approx(1)
    assert (p > 0).sum() >= 8
    found, degrees = pearson(counted(decoder, TableDecoder(other), sampling, 1500), p)
    assert found < chi_square_bound(degrees)


def test_three_drawn_tokens_under_a_constraint_have_the_renormalised_distribution():
    """The draft is held to the constraint too, with the ids that it has proposed itself."""
    tokenizer = CharTokenizer("abc", has_end_of_text=False)
    constraint = Choices(["abb", "acb", "bab", "bac", "ccc"], tokenizer)
    decoder, sampling = TableDecoder(TABLE), Sampling(temperature=1.0)
    p = exact_distribution(decoder, PROMPT, 3, sampling, constraint)
    assert ((p > 0).sum(), p.sum()) == (5, pytest.approx(1))
    found, degrees = pearson(counted(decoder, TableDecoder(TABLE_DRAFTS["unlike"]), sampling, 1000, constraint), p)
    assert found < chi_square_bound(degrees)


def test_the_test_would_notice_a_draft_that_is_trusted():
    """Tokens of the unlike draft alone are far outside the bound."""
    p = exact_distribution(TableDecoder(TABLE), PROMPT, 3, Sampling(1.0, None))
    of_draft = exact_distribution(TableDecoder(TABLE_DRAFTS["unlike"]), PROMPT, 3, Sampling(1.0, None))
    found, degrees = pearson(np.random.default_rng(0).multinomial(1500, of_draft.ravel()).reshape(p.shape), p)
    assert found > 2 * chi_square_bound(degrees)


def test_accept_or_redraw_at_its_limits():
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.25, 0.6, 0.05, 0.1])
    assert accept_or_redraw(0, p, q, Always(np.nextafter(1, 0))) == 0  # p > q: always
    assert accept_or_redraw(1, p, q, Always(np.nextafter(0.5, 0))) == 1  # p / q is a half
    assert accept_or_redraw(1, p, q, Always(0.5)) == 0  # 0.5 of 0.25 : 0.15
    assert accept_or_redraw(1, p, q, Always(0.7)) == 2
    assert accept_or_redraw(3, p, q, Always(0.0)) == 0  # p = 0: never
    p, q = np.array([np.nextafter(0.5, 0), 0.5]), np.array([0.5, 0.5])  # nothing is left of p - q
    assert accept_or_redraw(0, p, q, Always(np.nextafter(1, 0))) == 1
