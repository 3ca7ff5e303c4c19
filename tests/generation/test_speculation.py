"""Speculative decoding: greedy text is the plain loop's; what the draft saves, how a text ends, what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.table_decoder import TableDecoder
from helpers.texts import CONFIG, ids_of, random_model, random_prompts, record

from npgpt.errors import ConfigError
from npgpt.generation import Decoder, Sampling, StopTexts, stream
from npgpt.generation.constraints import Regex
from npgpt.generation.drafts import PromptLookup
from npgpt.generation.speculation import speculate
from npgpt.gpt import GPT
from npgpt.text.tokenizers import CharTokenizer

BLOCK_SIZE = 20
LETTERS = CharTokenizer("abcdefghijklmnopqrstuv")
PENALTIES = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "no_repeat_ngram_size": 2,
    "logit_bias": {8: 0.5, 14: -2.0, 21: -math.inf},
    "bad_words": [[16], [21, 21], [8, 8, 8]],
    "min_new_tokens": 5,
}


@pytest.fixture(scope="module")
def models():
    """A model, and models to draft for it."""
    model = random_model(block_size=BLOCK_SIZE)
    near = random_model(block_size=BLOCK_SIZE)
    rng = np.random.default_rng(2)
    for p in near.parameters():
        p.data = p.data + 0.05 * rng.standard_normal(p.shape)
    opposite = random_model(block_size=BLOCK_SIZE)
    opposite.ln_f.weight.data, opposite.ln_f.bias.data = -opposite.ln_f.weight.data, -opposite.ln_f.bias.data
    small = with_random_parameters(
        GPT(replace(CONFIG, n_layer=1, n_embd=4, n_head=1, block_size=7), dtype=np.float64), seed=5
    )
    shortest = with_random_parameters(GPT(replace(CONFIG, block_size=1), dtype=np.float64), seed=6)
    return {"model": model, "near": near, "opposite": opposite, "small": small, "shortest": shortest}


DRAFTS = ["model", "near", "opposite", "small", "shortest", "lookup"]


def draft_of(models, name):
    return PromptLookup() if name == "lookup" else models[name]


def plain(model, prompt, n, *arguments, **options):
    return ids_of(stream(model, [prompt], n, *arguments, **options))


# Greedy text


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("drafted", [1, 4, 9])
def test_greedy_text_is_the_plain_loops_within_and_past_the_window(models, draft, drafted):
    greedy = Sampling(temperature=0)
    for prompt in random_prompts(1, 2, 11, BLOCK_SIZE, BLOCK_SIZE + 3):
        expected = plain(models["model"], prompt, 25, greedy)
        found = ids_of(speculate(models["model"], draft_of(models, draft), prompt, 25, greedy, drafted=drafted))
        assert found == expected


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("penalty", [*PENALTIES, "all"])
def test_greedy_text_with_penalties_is_the_plain_loops(models, draft, penalty):
    """A penalty that saw another text than the one before its position would change what comes out."""
    settings = PENALTIES if penalty == "all" else {penalty: PENALTIES[penalty]}
    for seed in range(3):
        prompt = np.random.default_rng(seed).integers(CONFIG.vocab_size, size=4)
        arguments = 20, Sampling(temperature=0, **settings)
        stops = plain(models["model"], prompt, *arguments)[3:4]
        expected = plain(models["model"], prompt, *arguments, stop_ids=stops)
        found = speculate(models["model"], draft_of(models, draft), prompt, *arguments, stop_ids=stops)
        assert ids_of(found) == expected


def test_penalties_change_the_text():
    """Or the test above would say little."""
    model, prompt = random_model(block_size=BLOCK_SIZE), random_prompts(4)[0]
    without = plain(model, prompt, 20, Sampling(temperature=0))
    for name in set(PENALTIES) - {"min_new_tokens"}:
        assert plain(model, prompt, 20, Sampling(temperature=0, **{name: PENALTIES[name]})) != without, name


def test_float32_models_and_other_positions():
    for position in ("sinusoidal", "rotary"):
        model, draft = (random_model(seed, np.float32, position=position, block_size=16) for seed in (0, 1))
        expected = plain(model, [1, 2], 20, Sampling(temperature=0))
        assert ids_of(speculate(model, draft, [1, 2], 20, Sampling(temperature=0))) == expected


# Drawn text


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.8, "temperature": 1.5}, PENALTIES])
def test_text_drawn_with_a_lookup_is_the_plain_loops_with_the_same_seed(models, settings):
    for seed in range(4):
        prompt = np.tile(random_prompts(3)[0], 3)
        tokens = speculate(models["model"], PromptLookup(2), prompt, 20, Sampling(**settings), seed=seed)
        assert ids_of(tokens) == plain(models["model"], prompt, 20, Sampling(**settings), seed=seed)
        assert tokens.proposed > 0


def test_the_seed_decides_the_text(models):
    texts = [ids_of(speculate(models["model"], models["near"], [1, 2], 18, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


# What the draft is good for


def test_a_draft_that_is_the_model_is_always_accepted_and_saves_passes(models):
    """With every rule, too: model and draft each see the ids that were proposed before."""
    for settings in ({"temperature": 0}, {"temperature": 1.0}, {"top_k": 5, **PENALTIES, "no_repeat_ngram_size": 1}):
        tokens = speculate(models["model"], models["model"], [1, 2], 18, Sampling(**settings), seed=0, drafted=4)
        assert len(list(tokens)) == tokens.tokens == 18
        assert tokens.acceptance_rate == 1
        assert tokens.passes == 4  # 5 + 5 + 5 + 3
        assert tokens.proposed == tokens.accepted == 4 + 4 + 4 + 2
        assert tokens.summary() == "14 of 14 drafted tokens accepted (100%); 4.50 tokens a pass"


def test_a_draft_that_disagrees_is_asked_for_ever_less(models):
    tokens = speculate(models["model"], models["opposite"], [1, 2], 18, Sampling(temperature=0), drafted=4)
    assert len(list(tokens)) == tokens.passes == 18
    assert (tokens.accepted, tokens.acceptance_rate) == (0, 0.0)
    assert tokens.proposed == 4 + 3 + 2 + 14 * 1  # none for the last token, which the model adds itself


def test_a_draft_that_agrees_again_is_asked_for_more():
    """Ids go round; the draft is wrong after each fifth one."""
    table = np.full((10, 10, 10), -30.0)
    for last in range(10):
        table[:, last, (last + 1) % 10] = 30
    wrong = table.copy()
    wrong[:, 4] = wrong[:, 9] = 0
    wrong[:, 4, 0] = wrong[:, 9, 5] = 60
    tokens = speculate(TableDecoder(table), TableDecoder(wrong), [0], 30, Sampling(temperature=0), drafted=6)
    assert ids_of(tokens) == [n % 10 for n in range(1, 31)]
    assert (tokens.proposed, tokens.passes) == (30, 6)  # with one more instead of two: 28 proposed


def test_past_the_window_there_are_plain_steps_and_the_summary_says_so(models):
    tokens = speculate(models["model"], models["model"], np.arange(15), 12, Sampling(temperature=0))
    list(tokens)
    assert tokens.plain_steps == 6  # text of 21 to 26 ids
    assert tokens.passes == 8  # 5 tokens, 1 at the last place, and the plain ones
    assert tokens.summary().endswith("; 6 tokens past the context of 20 without a draft")


def test_only_what_is_new_goes_through_the_models(models):
    model, draft = random_model(block_size=BLOCK_SIZE), random_model(block_size=BLOCK_SIZE)
    of_model, of_draft = (record(m, lambda ids, cache: ids.shape[1]) for m in (model, draft))
    list(speculate(model, draft, np.arange(5), 11, Sampling(temperature=0), drafted=4))
    assert of_model == [4, 5, 5, 1]  # all prompt ids but the last; then that one and four drafted ones
    assert of_draft == [5, 1, 1, 1, 2, 1, 1, 1]  # the model's own token, and the last drafted one


# Looking up


def test_a_text_that_repeats_is_looked_up():
    """Ids go round, so that all that is proposed is right, after the first round."""
    table = np.zeros((5, 5, 5))
    for last in range(5):
        table[:, last, (last + 1) % 5] = 60
    tokens = speculate(TableDecoder(table), PromptLookup(), [0, 1, 2, 3, 4, 0], 20, drafted=4)
    assert ids_of(tokens) == [n % 5 for n in range(1, 21)]
    assert (tokens.passes, tokens.acceptance_rate) == (4, 1.0)


# How a text ends, and what comes with a token


@pytest.mark.parametrize("draft", ["model", "near", "lookup"])
def test_the_tokens_are_those_of_stream_with_what_comes_with_them(models, draft):
    """Ids, reasons to end, log-probabilities; a stop id amid accepted tokens ends the text there."""
    model, prompt, greedy = models["model"], random_prompts(3)[0], Sampling(temperature=0)
    text = plain(model, prompt, 15, greedy)
    for stop_ids in ([], text[:1], text[6:7], text[14:]):
        expected = list(stream(model, [prompt], 15, greedy, stop_ids=stop_ids, logprobs=3))
        found = list(speculate(model, draft_of(models, draft), prompt, 15, greedy, stop_ids=stop_ids, logprobs=3))
        for token, other in zip(found, expected, strict=True):
            assert (token.row, token.id, token.ended) == (0, other.id, other.ended)
            assert token.logprob == pytest.approx(other.logprob, abs=1e-12)
            assert [id for id, _ in token.likeliest] == [id for id, _ in other.likeliest]
        assert expected[-1].ended is not None


@pytest.mark.parametrize("max_new_tokens", [0, 1, 2, 5, 6])
def test_there_are_no_more_tokens_than_were_asked_for(models, max_new_tokens):
    tokens = speculate(models["model"], models["model"], [1, 2], max_new_tokens, seed=0)
    assert len(list(tokens)) == max_new_tokens
    assert tokens.proposed <= max(max_new_tokens - 1, 0)


def test_stop_strings_and_time(models):
    no_id_twice = Sampling(temperature=0, no_repeat_ngram_size=1)
    text = plain(models["model"], [1, 2], 15, no_id_twice)
    stops = StopTexts(LETTERS, [LETTERS.decode(text[5:8])])
    found = list(speculate(models["model"], models["model"], [1, 2], 15, no_id_twice, stop_if=stops))
    assert ([token.id for token in found], found[-1].ended) == (text[:8], "stop")
    found = list(speculate(models["model"], models["model"], [1, 2], 15, max_seconds=1e-9))
    assert [token.ended for token in found] == ["time"]


@pytest.mark.parametrize("draft", DRAFTS)
def test_constrained_text_is_the_plain_loops_and_matches(models, draft):
    constraint = Regex("([a-f]{2}[g-v]){2,4}", LETTERS)
    for sampling in (Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=2.0)):
        options = {"stop_ids": [LETTERS.end_of_text], "constraint": constraint}
        expected = plain(models["model"], [1, 2], 18, sampling, **options)
        assert ids_of(speculate(models["model"], draft_of(models, draft), [1, 2], 18, sampling, **options)) == expected
        assert len(expected) > 3
    assert constraint.allowed()[0]
    assert not constraint.allowed()[6]  # the one that was given is as it was


def test_drawn_text_under_a_constraint_matches(models):
    constraint = Regex("([a-c]{2}[d-f]){2}", LETTERS)
    for seed in range(10):
        tokens = speculate(models["model"], models["opposite"], [9], 18, seed=seed, constraint=constraint)
        found = list(tokens)
        assert len(found) == 6
        assert found[-1].ended == "stop"
        assert tokens.acceptance_rate < 1
        state = constraint.copy()
        for token in found:
            state.push(token.id)


def test_the_draft_is_held_to_the_constraint_and_proposes_nothing_behind_its_end(models):
    constraint = Regex("[a-k][l-v][a-k][l-v]", LETTERS)
    tokens = speculate(models["model"], models["model"], [9], 18, seed=0, drafted=9, constraint=constraint)
    assert len(list(tokens)) == 4
    assert (tokens.proposed, tokens.accepted, tokens.passes) == (4, 4, 1)


def test_the_draft_proposes_nothing_behind_a_stop_id(models):
    text = plain(models["model"], [1, 2], 18, Sampling(temperature=0, no_repeat_ngram_size=1))
    tokens = speculate(
        models["model"], models["model"], [1, 2], 18, Sampling(temperature=0, no_repeat_ngram_size=1),
        stop_ids=text[2:3], drafted=9,
    )  # fmt: skip
    assert ids_of(tokens) == text[:3]
    assert (tokens.proposed, tokens.accepted, tokens.passes) == (3, 3, 1)


# What is refused


def test_a_draft_with_another_vocabulary_is_refused(models):
    other = GPT(replace(CONFIG, vocab_size=24))
    with pytest.raises(ConfigError, match=r"vocabulary of 24 tokens, and the model one of 23:\n.*same tokenizer"):
        speculate(models["model"], other, [1], 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drafted", 0),
        ("drafted", -1),
        ("max_new_tokens", -1),
        ("logprobs", -1),
        ("max_seconds", 0),
        ("max_seconds", math.nan),
    ],
)
def test_numbers_that_are_too_small_are_refused(models, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be "):
        speculate(models["model"], PromptLookup(), [1], **{"max_new_tokens": 5, name: value})


@pytest.mark.parametrize("ids", [[], [[1, 2]], 1])
def test_prompts_that_are_refused(models, ids):
    with pytest.raises(ValueError, match="at least one token"):
        speculate(models["model"], PromptLookup(), np.array(ids, int), 5)


def test_other_mistakes_are_refused_at_once(models):
    with pytest.raises(IndexError, match="23 is outside the vocabulary of 23"):
        speculate(models["model"], PromptLookup(), [1, 23], 5)
    with pytest.raises(TypeError):
        speculate(models["model"], PromptLookup(), [1], 5, stop_ids=[1.5])
    with pytest.raises(ConfigError, match="the constraint allows no token"):
        speculate(models["model"], PromptLookup(), [1], 5, constraint=Regex("", CharTokenizer("ab")))


@pytest.mark.parametrize("damaged", ["model", "near"])
def test_damaged_weights_show(damaged):
    models = [random_model(), random_model()]
    models[damaged == "near"].wte.weight.data[...] = np.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        list(speculate(Decoder(models[0]), Decoder(models[1]), [1, 2], 3))
