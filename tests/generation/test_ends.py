"""Where a text ends: at a stop id, where it is asked to, in time, and when a constraint is finished."""

import sys

import pytest
from helpers.texts import CONFIG, OneOf, ids_of, random_model, random_prompts, tokens_of

from npgpt.errors import ConfigError
from npgpt.generation import stream

V = CONFIG.vocab_size


def test_stop_ids_end_a_text_and_are_its_last():
    model, ids = random_model(), random_prompts(3, 3, 3)
    whole = tokens_of(model, ids, 12, seed=0, temperature=2.0)
    stops = {whole[0][2].id, whole[1][5].id}
    found = tokens_of(model, ids, 12, seed=0, temperature=2.0, stop_ids=stops)
    for row, tokens in found.items():
        first = next((n for n, token in enumerate(whole[row]) if token.id in stops), 11)
        assert ids_of(tokens) == ids_of(whole[row][: first + 1])
        assert [token.ended for token in tokens] == [None] * first + ["stop" if tokens[-1].id in stops else "length"]
    assert len({len(tokens) for tokens in found.values()}) > 1


def test_a_text_has_a_minimum_length_before_stop_ids():
    model = random_model()
    (tokens,) = tokens_of(model, [[1]], 12, seed=0, stop_ids=range(20), min_new_tokens=5).values()
    assert (tokens[-1].ended, len(tokens) > 5) == ("stop", True)
    assert not set(ids_of(tokens[:-1])) & set(range(20))
    (tokens,) = tokens_of(model, [[1]], 12, seed=0, stop_ids=range(20)).values()
    assert (tokens[-1].ended, len(tokens) < 5) == ("stop", True)


def test_stop_if_is_asked_about_each_token():
    asked = []

    def stop_if(token):
        asked.append(token)
        return len(asked) == 4

    tokens = list(stream(random_model(), [[1, 2], [3]], 3, seed=0, stop_if=stop_if))
    assert [token.ended for token in tokens] == [None, None, None, "stop", "length"]
    assert [(token.row, token.id) for token in asked] == [(token.row, token.id) for token in tokens]
    assert [token.ended for token in asked] == [None] * 5


def test_texts_end_in_time(monkeypatch):
    """All of them after the same number of tokens, with the first step that ends too late."""
    clock = iter([0.0, 1.0, 2.9, 3.0, 99.0])
    monkeypatch.setattr(sys.modules[stream.__module__], "monotonic", lambda: next(clock))
    tokens = list(stream(random_model(), [[1, 2], [3]], 9, seed=0, max_seconds=3))
    assert [token.ended for token in tokens] == [None] * 4 + ["time"] * 2


def test_each_text_gets_a_token_however_short_the_time():
    (token,) = stream(random_model(), [[1, 2]], 9, max_seconds=1e-9)
    assert token.ended == "time"
    assert [token.ended for token in stream(random_model(), [[1, 2]], 1, max_seconds=1e-9)] == ["length"]


def test_a_constraint_says_what_may_follow_in_each_text():
    texts = [[4, 5, 6], [4, 6, 5], [9, 1, 1], [10, 10, 10]]
    constraint = OneOf(V, *texts)
    found = tokens_of(random_model(), random_prompts(*[3] * 20), 12, seed=0, temperature=5.0, constraint=constraint)
    assert {tuple(ids_of(tokens)) for tokens in found.values()} == set(map(tuple, texts))
    assert {tuple(token.ended for token in tokens) for tokens in found.values()} == {(None, None, "stop")}
    assert (constraint.n, len(constraint.texts)) == (0, 4)  # each text has a copy
    (cut_off,) = tokens_of(random_model(), [[1]], 2, constraint=constraint).values()
    assert [token.ended for token in cut_off] == [None, "length"]
    with pytest.raises(ConfigError, match="the constraint allows no token"):
        stream(random_model(), [[1]], 3, constraint=OneOf(V, []))
