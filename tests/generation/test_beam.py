"""Beam search against all texts there are, and what it does with the cache's rows.

test_strategies_against_transformers.py compares it with transformers'.
"""

from itertools import product

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.plain_decoder import PlainDecoder
from helpers.tolerances import rounding

from npgpt import GPT, GPTConfig
from npgpt.errors import ConfigError
from npgpt.generation import Sampling, beam_search
from npgpt.generation.filters import log_softmax

CONFIG = GPTConfig(vocab_size=5, block_size=8, n_layer=1, n_head=2, n_embd=8)
PROMPT = np.array([1, 3])


@pytest.fixture(scope="module")
def model():
    return with_random_parameters(GPT(CONFIG, dtype=np.float64), seed=3)


@pytest.fixture
def decoder(model):
    return PlainDecoder(model)


def log_likelihood(model, ids):
    """The sum of the log-probabilities of the ids behind the prompt."""
    logits = model([ids[-CONFIG.block_size - 1 : -1]]).data[0]
    return sum(log_softmax(logits[t - 1])[ids[t]] for t in range(len(PROMPT), len(ids)))


def all_texts(length, stop_ids=()):
    """Those of so many new ids, and the shorter ones that end with a stop id."""
    for n in range(1, length + 1):
        for new in product(range(CONFIG.vocab_size), repeat=n):
            if not set(new[:-1]) & set(stop_ids) and (n == length or new[-1] in stop_ids):
                yield [*PROMPT.tolist(), *new]


@pytest.mark.parametrize("stop_ids", [(), (2,), (0, 2)])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_enough_beams_find_the_best_of_all_texts(model, decoder, length_penalty, stop_ids):
    """With as many beams as there are texts nothing is left out; "never" stops no sooner than it may."""

    def score(ids):
        return log_likelihood(model, ids) / (len(ids) - len(PROMPT)) ** length_penalty

    best = sorted(all_texts(3, stop_ids), key=score, reverse=True)[:7]
    options = {"length_penalty": length_penalty, "early_stopping": "never", "stop_ids": stop_ids, "returned": 7}
    found = beam_search(decoder, PROMPT, 3, 125, **options)
    assert [beam.ids.tolist() for beam in found] == best
    error = rounding(np.float64, CONFIG.vocab_size) * 10
    np.testing.assert_allclose([beam.score for beam in found], [score(ids) for ids in best], rtol=error)


def test_one_beam_is_greedy(model):
    (beam,) = beam_search(model, PROMPT, 12, 1, sampling=Sampling())  # whose temperature and top_k don't count
    np.testing.assert_array_equal(beam.ids, model.generate(PROMPT[None], 12, temperature=0)[0])  # past the context
    assert beam.ids.dtype == PROMPT.dtype


def test_a_prompt_of_unsigned_numbers(model):
    for signed, unsigned in zip(
        *(beam_search(model, PROMPT.astype(t), 3, 2) for t in (np.int64, np.uint64)), strict=True
    ):
        np.testing.assert_array_equal(signed.ids, unsigned.ids)


def test_bans_leave_fewer_texts(decoder):
    """Only 0 and 1 may follow, and 0 not twice: of two new ids 01, 10 and 11 are left."""
    bans = Sampling(bad_words=[[2], [3], [4], [0, 0]])
    found = beam_search(decoder, PROMPT, 2, 6, returned=6, sampling=bans)
    assert sorted(tuple(beam.ids[2:]) for beam in found) == [(0, 1), (1, 0), (1, 1)]
    with pytest.raises(FloatingPointError, match="no token is left"):
        beam_search(decoder, PROMPT, 2, 3, sampling=Sampling(bad_words=[[id] for id in range(5)]))


def test_a_text_that_can_not_go_on_is_dropped(decoder):
    """After 0 everything is banned, so the texts that remain don't hold it; only the last id may be 0."""
    bans = Sampling(bad_words=[[0, id] for id in range(5)])
    found = beam_search(decoder, PROMPT, 3, 20, returned=20, sampling=bans)
    assert len(found) == 20
    assert not any(0 in beam.ids[:-1] for beam in found)


def test_no_text_ends_before_the_minimum(decoder):
    options = {"stop_ids": (0, 2, 4), "returned": 4}
    assert any(len(beam.ids) < 5 for beam in beam_search(decoder, PROMPT, 6, 4, **options))
    found = beam_search(decoder, PROMPT, 6, 4, **options, sampling=Sampling(min_new_tokens=3))
    assert all(len(beam.ids) >= 5 for beam in found)


@pytest.mark.parametrize("length", [3, 12])
def test_a_row_of_the_cache_holds_what_its_text_continues(decoder, length):
    """And is copied only for texts that share their beginning, to a row that nobody needs."""
    beam_search(decoder, PROMPT, length, 4, returned=4)
    (cache,) = decoder.caches
    assert {len(text) for text in cache.texts} == {min(len(PROMPT) + length - 1, CONFIG.block_size)}
    assert cache.copies[0] == (0, [1])
    assert 3 <= len(cache.copies) < 4 * length - 4
    assert all(source not in targets for source, targets in cache.copies)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_damaged_weights_show(number):
    model = with_random_parameters(GPT(CONFIG, dtype=np.float64))
    model.wte.weight.data[4, 0] = number
    with pytest.raises(FloatingPointError, match="weights are damaged"), np.errstate(invalid="ignore"):
        beam_search(PlainDecoder(model), PROMPT, 3, 2)


WRONG = {
    "max_new_tokens": [0, -1, 1.5, None, True],
    "beams": [0, -1, 1.5, None, True, "2"],
    "returned": [0, 4, 1.5, None, True],
    "length_penalty": [np.nan, np.inf, "1", None, True, 21],
    "early_stopping": ["always", None, 1, 0],
    "stop_ids": [(-1,), (1.5,), ("1",)],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_argument_is_refused_by_its_name(decoder, name, value):
    with pytest.raises(ConfigError, match=rf"^{name} must be"):
        beam_search(decoder, PROMPT, **{"max_new_tokens": 2, "beams": 3, name: value})
    assert decoder.caches == []


@pytest.mark.parametrize("prompt", [[], [[1]], 1, [1.5], ["a"]])
def test_prompts_that_are_refused(decoder, prompt):
    with pytest.raises(ValueError, match="prompt_ids must be"):
        beam_search(decoder, prompt, 2, 3)
