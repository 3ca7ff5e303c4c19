"""The loop that makes text: the same tokens with and without the cache, and what it leaves as it was."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.texts import OneOf, ids_of, record, tokens_of

from npgpt.config import POSITIONS, GPTConfig
from npgpt.errors import ConfigError
from npgpt.generation import Decoder, Sampling, generate, stream
from npgpt.gpt import GPT
from npgpt.tensor import is_grad_enabled

CONFIG = GPTConfig(vocab_size=13, block_size=6, n_layer=2, n_head=2, n_embd=8)


def random_model(seed=0, dtype=np.float64, **changes):
    return with_random_parameters(GPT(replace(CONFIG, **changes), seed=0, dtype=dtype), seed)


def random_ids(B, T):
    return np.random.default_rng(1).integers(CONFIG.vocab_size, size=(B, T))


def plain_greedy(model, ids, n):
    """The likeliest token after the last block_size ones, n times."""
    for _ in range(n):
        logits = model(ids[:, -model.config.block_size :]).data[:, -1]
        ids = np.concatenate([ids, logits.argmax(-1)[:, None]], axis=1)
    return ids


# Greedy text


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("block_size", [1, 2, 6])
@pytest.mark.parametrize("T", [1, 2, 5, 6, 7, 15])
def test_greedy_text_with_and_without_the_cache_within_and_past_the_window(position, block_size, T):
    model = random_model(position=position, block_size=block_size)
    ids = random_ids(3, T)
    expected = plain_greedy(model, ids, 10)
    assert expected.shape == (3, T + 10)
    np.testing.assert_array_equal(model.generate(ids, 10, temperature=0), expected)
    np.testing.assert_array_equal(model.generate(ids, 10, temperature=0, use_cache=False), expected)
    for row, alone in zip(expected, ids, strict=True):
        np.testing.assert_array_equal(model.generate(alone[None], 10, temperature=0)[0], row)


def test_greedy_texts_are_not_all_the_same_token():
    """Or the test above would say little."""
    model = random_model()
    assert len(np.unique(model.generate(random_ids(3, 5), 10, temperature=0)[:, 5:])) > 4


def test_the_cache_saves_work_until_the_window_slides():
    model = random_model()
    lengths = record(model, lambda ids, cache: ids.shape[1])
    model.generate(random_ids(2, 3), 7)
    assert lengths == [3, 1, 1, 1, 6, 6, 6]
    lengths.clear()
    model.generate(random_ids(2, 3), 7, use_cache=False)
    assert lengths == [3, 4, 5, 6, 6, 6, 6]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_cache_has_the_models_precision(dtype):
    model = random_model(dtype=dtype)
    dtypes = record(model, lambda ids, rows: {rows.cache.keys.dtype, rows.cache.values.dtype})
    generate(Decoder(model, weights=None), [[1, 2]], 2)
    assert dtypes == [{np.dtype(dtype)}] * 2


# Drawn text


def test_the_seed_decides_the_text():
    model = random_model()
    text = model.generate(random_ids(2, 3), 20, seed=1)
    np.testing.assert_array_equal(text, model.generate(random_ids(2, 3), 20, seed=1))
    np.testing.assert_array_equal(text, model.generate(random_ids(2, 3), 20, seed=1, use_cache=False))
    assert (text != model.generate(random_ids(2, 3), 20, seed=2)).any()
    assert (text[0] != text[1]).any()


@pytest.mark.parametrize("one_choice", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}])
def test_sampling_rules_reach_the_loop(one_choice):
    model = random_model()
    greedy = model.generate(random_ids(2, 3), 10, temperature=0)
    np.testing.assert_array_equal(model.generate(random_ids(2, 3), 10, seed=0, **one_choice), greedy)
    assert (model.generate(random_ids(2, 3), 10, seed=0) != greedy).any()


def test_texts_of_equal_prompts_are_drawn_separately():
    texts = random_model().generate(np.zeros((4, 2), int), 20, seed=0)
    assert len({tuple(text) for text in texts}) == 4


# What comes out, and when


def test_the_prompt_stands_in_front_and_is_not_changed():
    ids = random_ids(2, 4)
    before = ids.copy()
    text = random_model().generate(ids, 5, seed=0)
    assert text.shape == (2, 9)
    assert text.dtype.kind == "i"
    np.testing.assert_array_equal(text[:, :4], before)
    np.testing.assert_array_equal(ids, before)
    np.testing.assert_array_equal(random_model().generate(ids.tolist(), 5, seed=0), text)


def test_no_new_tokens():
    np.testing.assert_array_equal(random_model().generate([[1, 2]], 0), [[1, 2]])


def test_stream_yields_what_generate_joins_one_token_at_a_time():
    model = random_model()
    calls = record(model, lambda ids, cache: ids)
    tokens = stream(model, random_ids(2, 3), 9, Sampling(0.8, 5), seed=3)
    first = [next(tokens), next(tokens)]
    assert ([token.row for token in first], len(calls)) == ([0, 1], 1)
    rest = list(tokens)
    assert [token.row for token in rest] == [0, 1] * 8
    expected = generate(model, random_ids(2, 3), 9, temperature=0.8, top_k=5, seed=3)
    np.testing.assert_array_equal([token.id for token in (*first, *rest)], expected[:, 3:].T.ravel())


# What it leaves as it was


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_meanwhile_and_then_as_it_was(training):
    model, without = random_model(dropout=0.5).train(training), random_model()
    state = model.get_rng_state()
    np.testing.assert_array_equal(model.generate([[1, 2]], 9, seed=0), without.generate([[1, 2]], 9, seed=0))
    assert model.get_rng_state() == state
    assert model.training is training
    assert model.h[1].mlp.dropout.training is training


def test_the_mode_is_restored_after_an_error():
    model = random_model().train()
    with pytest.raises(IndexError):
        model.generate([[1, 99]], 3)
    assert model.training
    assert is_grad_enabled()


def test_nothing_is_recorded_for_gradients_but_between_tokens_all_is():
    model = random_model()
    recording = record(model, lambda ids, cache: is_grad_enabled())
    for _ in stream(model, [[1]], 3, Sampling()):
        assert is_grad_enabled()
    assert recording == [False] * 3


# What the model thinks of the tokens


@pytest.mark.parametrize("n", [0, 1, 3, 99])
def test_log_probabilities_are_the_models_own(n):
    """Whatever temperature and filters do; and within and past the context."""
    model, prompts = random_model(), [random_ids(1, 3)[0], random_ids(1, 5)[0]]
    how = {"temperature": 0.5, "top_k": 3, "repetition_penalty": 2.0, "seed": 0}
    for row, tokens in tokens_of(model, prompts, 7, logprobs=n, **how).items():
        text = prompts[row]
        for token in tokens:
            logits = model([text[-CONFIG.block_size :]]).data[0, -1]
            expected = logits - np.log(np.exp(logits).sum())
            np.testing.assert_allclose(token.logprob, expected[token.id], atol=1e-12)
            ids = np.argsort(-expected, kind="stable")[:n]
            assert [id for id, _ in token.likeliest] == ids.tolist()
            np.testing.assert_allclose([logprob for _, logprob in token.likeliest], expected[ids], atol=1e-12)
            text = np.append(text, token.id)
    assert ids_of(tokens) == ids_of(tokens_of(model, prompts, 7, **how)[1])


def test_they_are_not_computed_unless_asked_for():
    (token,) = stream(random_model(), [[1]], 1)
    assert (token.logprob, token.likeliest) == (None, ())


# What generate makes of them


def test_the_callback_sees_each_token_as_it_is_made():
    model, seen = random_model(), []
    calls = record(model, lambda ids, cache: len(seen))
    text = model.generate(random_ids(2, 3), 4, seed=0, callback=seen.append)
    assert text.shape == (2, 7)  # it changes nothing
    assert seen == list(model.stream(random_ids(2, 3), 4, seed=0))
    assert calls[:4] == [0, 2, 4, 6]


def test_what_comes_out_is_an_array_unless_texts_may_have_different_lengths():
    model = random_model()
    assert model.generate([[1, 2], [3, 4]], 3, num_samples=2).shape == (4, 5)
    assert model.generate(np.array([[1, 2]], np.uint16), 3).dtype == np.int64
    for ids, options in [
        ([[1, 2], [3]], {}),
        ([[1, 2]], {"stop_ids": [3]}),
        ([[1, 2]], {"stop_ids": ()}),
        ([[1, 2]], {"stop_if": lambda token: False}),
        ([[1, 2]], {"max_seconds": 1e9}),
        ([[1, 2]], {"constraint": OneOf(CONFIG.vocab_size, [1, 2, 3])}),
    ]:
        texts = model.generate(ids, 3, seed=0, **options)
        assert isinstance(texts, list)
        assert [len(text) <= len(prompt) + 3 for text, prompt in zip(texts, ids, strict=True)] == [True] * len(ids)
        assert all(text[: len(prompt)].tolist() == prompt for text, prompt in zip(texts, ids, strict=True))


def test_settings_of_sampling_by_name_or_as_one():
    model = random_model()
    expected = model.generate([[1, 2]], 9, seed=0, temperature=2.0, min_p=0.1)
    for options in (
        {"sampling": Sampling(temperature=2.0, min_p=0.1)},
        {"sampling": Sampling(temperature=0.1, min_p=0.1), "temperature": 2.0},
    ):
        np.testing.assert_array_equal(model.generate([[1, 2]], 9, seed=0, **options), expected)
    np.testing.assert_array_equal(generate(Decoder(model), [[1, 2]], 9, seed=0, temperature=2.0, min_p=0.1), expected)


# What is refused


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.attn.c_proj.bias", "ln_f.weight"])
def test_damaged_weights_show(name, temperature):
    model = random_model()
    dict(model.named_parameters())[name].data[...] = np.nan
    with pytest.raises(FloatingPointError, match="weights are damaged"):
        model.generate([[1, 2]], 3, temperature=temperature)


@pytest.mark.parametrize("ids", [[1, 2], [[]], [[[1]]], 1, [], [[1], []], [[1], 2], [[1], [[2]]]])
def test_prompts_that_are_refused(ids):
    if ids in ([1, 2], [[]], [[[1]]], 1):
        with pytest.raises(ValueError, match=r"\(B, T\) with at least one token"):
            random_model().generate(np.array(ids, int), 3)
    with pytest.raises(ValueError, match=r"\(B, T\) with at least one token"):
        random_model().generate(ids, 3)


def test_arguments_of_transformers_are_refused_with_ours():
    with pytest.raises(
        TypeError, match=r"^there is no setting 'num_beams' of generating: call generation\.beam_search$"
    ):
        random_model().generate([[1, 2]], 3, num_beams=2)
    with pytest.raises(TypeError, match=r"^there is no setting 'colour' of generating$"):
        random_model().generate([[1, 2]], 3, colour=2)
    with pytest.raises(TypeError, match=r"this is a text: give \[tokenizer\.encode\(text\)\]$"):
        random_model().generate("a text", 3)
    with pytest.raises(ValueError, match=r"; those of a single text are \[ids\]$"):
        random_model().generate([1, 2], 3)


@pytest.mark.parametrize(("ids", "error"), [([[1, 13]], IndexError), ([[-1]], IndexError), ([[1.0]], TypeError)])
def test_ids_that_are_refused_before_anything_is_computed(ids, error):
    with pytest.raises(error, match=r"token ids? "):
        stream(random_model(), [[1], *ids], 3)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"), ({"num_samples": 0}, "num_samples"), ({"logprobs": -1}, "logprobs"),
        ({"max_seconds": 0}, "max_seconds"), ({"max_seconds": float("nan")}, "max_seconds"), ({"top_p": 2.0}, "top_p"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_at_once(options, name):
    with pytest.raises(ConfigError, match=name):
        stream(random_model(), [[1, 2]], **{"max_new_tokens": 3, **options})


def test_an_unknown_setting():
    with pytest.raises(TypeError, match="temprature"):
        random_model().generate([[1, 2]], 3, temprature=1.0)
    for name in ("max_new_tokens", "num_samples", "logprobs"):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, not 1.5"):
            stream(random_model(), [[1, 2]], **{"max_new_tokens": 3, name: 1.5})
    with pytest.raises(TypeError):
        stream(random_model(), [[1, 2]], 3, stop_ids=[1.5])


def test_a_constraint_for_another_vocabulary():
    with pytest.raises(ConfigError, match="the constraint is for a vocabulary of 4, and the model's has"):
        random_model().generate([[1, 2]], 3, constraint=OneOf(4, [1]))


def test_prompts_may_come_one_by_one():
    expected = random_model().generate([[1, 2], [3]], 3, temperature=0)
    for found, text in zip(random_model().generate(iter([[1, 2], [3]]), 3, temperature=0), expected, strict=True):
        np.testing.assert_array_equal(found, text)
