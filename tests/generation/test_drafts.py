"""Drafts: what a small model proposes from what it has computed, and what is looked up in the text."""

import numpy as np
import pytest
from helpers.texts import random_model, random_prompts

from npgpt.errors import ConfigError
from npgpt.generation.drafts import DraftModel, PromptLookup


def test_a_draft_model_with_a_full_window_begins_again_with_half_of_it():
    small = random_model(5, n_layer=1, n_embd=4, n_head=1, block_size=7)
    draft, text = DraftModel(small), random_prompts(20)[0]
    for n in range(1, 21):
        logits = draft.logits(text[:n])
        first = n - draft._cache.lengths[0]
        assert 0 <= first <= max(0, n - 3) * (n > 7)
        np.testing.assert_allclose(logits, small([text[first:n]]).data[0, -1], atol=1e-12)
    draft.go_back(12)
    np.testing.assert_allclose(draft.logits(text[:14]), small([text[12:14]]).data[0, -1], atol=1e-12)


def test_a_draft_model_that_goes_back_forgets():
    model = random_model(block_size=20)
    draft, text = DraftModel(model), random_prompts(9)[0]
    draft.logits(text)
    draft.go_back(4)
    other = np.append(text[:4], [3, 5])
    np.testing.assert_allclose(draft.logits(other), model([other]).data[0, -1], atol=1e-12)


@pytest.mark.parametrize(
    ("ids", "ngram", "most", "expected"),
    [
        ([1, 2, 3, 4, 1, 2], 2, 3, [3, 4, 1]),
        ([1, 2, 3, 4, 1, 2], 3, 2, [3, 4]),  # no three ids came before, but two did
        ([1, 2, 9, 1, 2, 8, 1, 2], 2, 1, [8]),  # the last time counts
        ([7, 2, 9, 1, 2, 8, 7, 2], 2, 1, [9]),  # the longer one counts more than the later one
        ([7, 2, 9, 1, 2, 8, 7, 2], 1, 1, [8]),
        ([1, 2, 3], 3, 4, []),
        ([5], 3, 4, []),
        ([5, 5], 3, 4, [5, 5, 5, 5]),  # what follows reaches the end of the text: it goes round
        ([1, 2, 3, 1, 2, 3], 3, 7, [1, 2, 3, 1, 2, 3, 1]),
    ],
)
def test_prompt_lookup(ids, ngram, most, expected):
    assert PromptLookup(ngram).propose(np.array(ids), most).tolist() == expected


def test_looking_up_takes_at_least_one_id():
    with pytest.raises(ConfigError, match="ngram must be at least 1"):
        PromptLookup(0)
