"""The settings of Sampling: what is refused, and how they are compared and stored."""

import math
import pickle
from dataclasses import asdict

import numpy as np
import pytest

from npgpt.errors import ConfigError
from npgpt.generation import Sampling

INF = math.inf


def test_the_defaults():
    assert Sampling() == Sampling(temperature=0.8, top_k=50, top_p=None)
    assert Sampling() == Sampling(0.8, 50, None, None, None, 1.0, 0.0, 0.0, 0, {}, (), 0)


NUMBERS = [math.nan, INF, -INF, "1", None, True, [1.0]]
WHOLE = [-1, 1.0, 2.5, math.nan, "3", True]
WRONG = {
    "temperature": [-0.1, *NUMBERS],
    "top_k": WHOLE,
    "top_p": [0, 0.0, -0.1, 1.1, math.nan, INF, "0.9", True],
    "min_p": [-0.1, 1.1, math.nan, INF, "0.9", True],
    "typical_p": [0, 0.0, -0.1, 1.1, math.nan, INF, "0.9", True],
    "repetition_penalty": [0, -1.0, *NUMBERS],
    "presence_penalty": NUMBERS,
    "frequency_penalty": NUMBERS,
    "no_repeat_ngram_size": [None, *WHOLE],
    "logit_bias": [None, [1, 2], {-1: 1.0}, {1.5: 1.0}, {"1": 1.0}, {1: INF}, {1: math.nan}, {1: "2"}, {True: 1.0}],
    "bad_words": [None, [[]], [1], [[1], []], [[-1]], [[1.5]], "word", ["word"], {1: 2}, [[True]]],
    "min_new_tokens": [None, *WHOLE],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_its_name(field, value):
    with pytest.raises(ConfigError, match=rf"^{field} must be .*, not"):
        Sampling(**{field: value})


def test_a_long_wrong_value_is_cut_off_in_the_message():
    with pytest.raises(ConfigError) as caught:
        Sampling(bad_words=[[-1]] * 10_000)
    assert len(str(caught.value)) < 300


def test_the_ends_of_what_is_allowed():
    Sampling(temperature=0, top_k=1, top_p=1, min_p=0, typical_p=1, repetition_penalty=1e-3)
    Sampling(temperature=1e-300, top_k=10**9, top_p=1e-300, min_p=1, typical_p=1e-300, presence_penalty=-2.5)
    of_numpy = Sampling(temperature=np.float32(0.5), top_k=np.int64(3), top_p=np.float64(0.5), min_p=np.float32(0.5))
    assert (of_numpy.temperature, of_numpy.top_k, of_numpy.top_p, of_numpy.min_p) == (0.5, 3, 0.5, 0.5)
    lists = Sampling(logit_bias={0: -INF, np.int64(3): 100}, bad_words=[np.array([1, 2]), (3,)])
    assert (lists.logit_bias, lists.bad_words) == ({0: -INF, 3: 100.0}, ((1, 2), (3,)))


def test_an_id_that_never_comes_does_not_come_by_a_bias_either():
    assert Sampling(logit_bias={1: 2.0, 3: 9.0}).without([3, 4]).logit_bias == {1: 2.0, 3: -INF, 4: -INF}


def test_settings_can_be_compared_hashed_and_stored_and_dont_change_with_what_they_were_made_from():
    bias, words = {1: 2.0}, [[1, 2]]
    sampling = Sampling(logit_bias=bias, bad_words=words)
    same = Sampling(logit_bias=dict(bias), bad_words=((1, 2),))
    bias[3], words[0][0] = 1.0, 5
    assert sampling == same
    assert hash(sampling) == hash(same)
    assert sampling != Sampling(logit_bias={1: 2.5}, bad_words=[[1, 2]])
    assert pickle.loads(pickle.dumps(sampling)) == sampling
    assert Sampling(**asdict(sampling)) == sampling
