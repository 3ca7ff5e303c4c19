"""Every strategy against transformers: its processors on random logits, and its generate() with a tiny GPT-2.

The processors get float64, and the distributions must be equal; generate() computes in float32.
"""

from itertools import product

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.plain_decoder import PlainDecoder
from helpers.tolerances import FLOAT32_EXTRA, FLOAT64_VALUE, rounding

from npgpt import GPT, GPTConfig
from npgpt.generation import History, Sampling, beam_search

transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")

V, PADDING = 40, 39
CONFIG = GPTConfig(vocab_size=V, block_size=24, n_layer=1, n_head=2, n_embd=16)
PROMPT = np.array([7, 3, 7, 3, 11])


@pytest.fixture(scope="module")
def model():
    """Its logits are spread enough for some tokens to be likely and others not."""
    model = with_random_parameters(GPT(CONFIG), seed=5)
    model.ln_f.weight.data *= 2.5
    return model


@pytest.fixture(scope="module")
def theirs(model):
    shape = {"vocab_size": V, "n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    state = {f"transformer.{name}": torch.from_numpy(array) for name, array in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # which is wte.weight
    theirs.generation_config = transformers.GenerationConfig(pad_token_id=PADDING)
    return theirs


def rule(**settings):
    return Sampling(**{"temperature": 1.0, "top_k": None, **settings})


# One processor after the other


def rows():
    """Random logits, some of them banned; half of them rounded, so that many are equal."""
    rng = np.random.default_rng(0)
    for spread in (0.5, 2.0, 6.0):
        for _ in range(4):
            logits = rng.standard_normal(V) * spread
            logits[rng.integers(V, size=3)] = -np.inf
            yield logits
            yield logits.round(0 if spread > 1 else 1)
    yield np.zeros(V)


def theirs_on(processor, logits, ids=PROMPT):
    return processor(torch.from_numpy(ids)[None], torch.from_numpy(logits)[None])[0]


def assert_same_distribution(sampling, processors, history, equals_in_order=True):
    """equals_in_order: of several equal logits the same ones are kept, and not only as many"""
    for logits in rows():
        scores = logits
        for processor in processors:
            scores = theirs_on(processor, scores, history.ids).numpy()
        expected = torch.from_numpy(scores).softmax(-1).numpy()
        found = sampling.distribution(logits, history)
        if not equals_in_order:
            order = np.lexsort((found, logits)), np.lexsort((expected, logits))
            found, expected = found[order[0]], expected[order[1]]
        np.testing.assert_allclose(found, expected, rtol=FLOAT64_VALUE, atol=1e-300)
        np.testing.assert_array_equal(found == 0, expected == 0)


WARPERS = {
    "temperature": ("TemperatureLogitsWarper", [0.3, 1.7, 0.01, 1e-9]),
    "top_k": ("TopKLogitsWarper", [1, 3, 20, V, 10 * V]),
    "top_p": ("TopPLogitsWarper", [1e-9, 0.1234, 0.5678, 0.9012, 0.9999]),
    "min_p": ("MinPLogitsWarper", [0.0, 0.0123, 0.4567, 1.0]),
    "typical_p": ("TypicalLogitsWarper", [1e-9, 0.1234, 0.5678, 0.9012, 0.9999]),
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, (_, values) in WARPERS.items() for v in values])
def test_a_filter(name, value):
    """top_p may keep some of several equal tokens; in transformers an unstable sort decides which."""
    processor = getattr(transformers, WARPERS[name][0])(value)
    assert_same_distribution(rule(**{name: value}), [processor], History(PROMPT, 2), equals_in_order=name != "top_p")


def test_top_p_of_nothing():
    """Which Sampling refuses; transformers and the filter keep the likeliest."""
    from npgpt.generation.filters import softmax, top_p

    for logits in rows():
        expected = theirs_on(transformers.TopPLogitsWarper(0.0), logits).isfinite().nonzero()[:, 0]
        np.testing.assert_array_equal(logits[top_p(softmax(logits), 0.0)], logits[expected.numpy()])


@pytest.mark.parametrize("penalty", [0.3, 1.0, 1.7])
def test_the_repetition_penalty(penalty):
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    assert_same_distribution(rule(repetition_penalty=penalty), [processor], History(PROMPT, 2))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("ids", [PROMPT, PROMPT[:4], PROMPT[:1]])
def test_no_repeated_ngrams(n, ids):
    processor = transformers.NoRepeatNGramLogitsProcessor(n)
    assert_same_distribution(rule(no_repeat_ngram_size=n), [processor], History(ids, 1))


def test_logit_bias():
    bias = {0: 1.25, 7: -3.5, 39: -np.inf, 12: 0.0}  # float32 holds them: transformers keeps them in it
    processor = transformers.SequenceBiasLogitsProcessor({(id,): x for id, x in bias.items()})
    assert_same_distribution(rule(logit_bias=bias), [processor], History(PROMPT, 2))


@pytest.mark.parametrize(
    "words", [[[7]], [[11, 2], [3, 11, 4], [7, 3, 7, 3, 11, 5], [1, 7, 3, 7, 3, 11, 6]], [[9], [8]]]
)
@pytest.mark.parametrize("stop_ids", [(), (9,), (9, 2)])
def test_bad_words(words, stop_ids):
    words = [list(map(int, word)) for word in words]
    processor = transformers.NoBadWordsLogitsProcessor(words, list(stop_ids) or None)
    assert_same_distribution(rule(bad_words=words), [processor], History(PROMPT, 2, frozenset(stop_ids)))


@pytest.mark.parametrize("minimum", [0, 2, 3, 4])
def test_a_minimum_of_new_tokens(minimum):
    processor = transformers.MinNewTokensLengthLogitsProcessor(2, minimum, [4, 9, V + 3])
    assert_same_distribution(rule(min_new_tokens=minimum), [processor], History(PROMPT, 2, frozenset({4, 9, V + 3})))


def test_a_constraint():
    allowed = np.arange(V) % 3 == 0
    processor = transformers.PrefixConstrainedLogitsProcessor(lambda *_: np.flatnonzero(allowed).tolist(), 1)
    for sampling, warpers in ((rule(), []), (rule(top_k=4), [transformers.TopKLogitsWarper(4)])):
        assert_same_distribution(sampling, [processor, *warpers], History(PROMPT, 2, allowed=allowed))


# What generate() makes of all settings together

TOGETHER = [
    {"temperature": 0.7, "top_k": 9, "top_p": 0.8765, "min_p": 0.0234, "typical_p": 0.9123},
    {"temperature": 2.3, "top_p": 0.8765, "min_p": 0.2345},
    {"temperature": 1.3, "top_p": 0.7654, "repetition_penalty": 1.3},
    {"top_k": 5, "typical_p": 0.4567, "no_repeat_ngram_size": 2},
    {"min_p": 0.1234, "bad_words": [[7], [3, 11], [9]], "min_new_tokens": 6, "logit_bias": {3: 2.5, 9: 4.0}},
    {"temperature": 0.5, "repetition_penalty": 0.8, "logit_bias": {1: 1.5, 7: -2.0}, "no_repeat_ngram_size": 1},
]


def for_generate(settings):
    """Settings of Sampling -> those of generate()."""
    names = {"bad_words": "bad_words_ids"}
    found = {names.get(name, name): value for name, value in settings.items()}
    if "logit_bias" in found:
        found["sequence_bias"] = [[[id], x] for id, x in found.pop("logit_bias").items()]
    return found


def generate(theirs, prompt=PROMPT, **options):
    """generate() with scores and logits, and the ids behind the prompt."""
    more = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    with torch.no_grad():
        return theirs.generate(torch.from_numpy(prompt)[None], **options, **more)


@pytest.mark.parametrize("settings", TOGETHER)
def test_the_rules_together_in_their_order(theirs, settings):
    sampling, steps = rule(**settings), 0
    options = {"temperature": 1.0, "top_k": 0, **for_generate(settings)}
    for seed in range(4):
        torch.manual_seed(seed)
        found = generate(theirs, max_new_tokens=12, do_sample=True, eos_token_id=[9, 12], **options)
        ids = found.sequences[0].numpy()
        for i, (logits, scores) in enumerate(zip(found.logits, found.scores, strict=True)):
            history = History(ids[: len(PROMPT) + i], len(PROMPT), frozenset({9, 12}))
            expected = scores[0].softmax(-1).numpy()
            ours = sampling.distribution(logits[0].numpy(), history)
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=FLOAT32_EXTRA)
            np.testing.assert_array_equal(ours == 0, expected == 0)
            steps += 1
    assert steps >= 10


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, *TOGETHER[4:]])
def test_greedy(model, theirs, settings):
    settings = {name: value for name, value in settings.items() if name not in ("temperature", "min_p")}
    expected = generate(theirs, max_new_tokens=19, do_sample=False, **for_generate(settings)).sequences[0].numpy()
    sampling, ids = Sampling(temperature=0, **settings), PROMPT
    for _ in range(19):
        logits = model(ids[None]).data[0, -1]
        ids = np.append(ids, sampling.next_token(logits, History(ids, len(PROMPT)), None))
    np.testing.assert_array_equal(ids, expected)
    if not settings:
        np.testing.assert_array_equal(model.generate(PROMPT[None], 19, temperature=0)[0], expected)


# Beam search


def check_beams(model, theirs, prompt, max_new_tokens, beams, returned, stop_ids, settings=(), **options):
    """Compares texts and scores -> the texts as tuples"""
    settings, prompt = dict(settings), np.array(prompt)
    their_options = {"num_beams": beams, "num_return_sequences": returned, "eos_token_id": list(stop_ids) or None}
    their_options |= {**options, **for_generate(settings), "max_new_tokens": max_new_tokens, "do_sample": False}
    expected = generate(theirs, prompt, **their_options)
    options |= {"returned": returned, "stop_ids": stop_ids, "sampling": Sampling(**settings)}
    found = beam_search(PlainDecoder(model), prompt, max_new_tokens, beams, **options)
    assert len(found) == returned
    for beam, ids in zip(found, expected.sequences.numpy(), strict=True):
        np.testing.assert_array_equal(beam.ids, ids[: len(beam.ids)])
        assert (ids[len(beam.ids) :] == PADDING).all()
    scores, error = [beam.score for beam in found], rounding(np.float32, max_new_tokens) * 10  # terms of up to 10
    np.testing.assert_allclose(scores, expected.sequences_scores.numpy(), rtol=1e-5, atol=error)
    return [tuple(beam.ids) for beam in found]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-0.7, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("stop_ids", [(), (20,), (9, 12, 20)])
def test_beams(model, theirs, length_penalty, early_stopping, stop_ids):
    options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    for prompt, beams in product((PROMPT, [12, 38], [20]), (2, 3, 5)):
        check_beams(model, theirs, prompt, 9, beams, beams, stop_ids, **options)


def test_the_three_meanings_of_early_stopping_differ(model, theirs):
    """Or the test above would say little. Each is also the same as in transformers when one text is asked for."""
    found, one = [], []
    for early_stopping in (False, True, "never"):
        options = {"stop_ids": (9, 12, 20), "early_stopping": early_stopping}
        found.append(check_beams(model, theirs, [1, 2, 3], 9, 3, 3, **options))
        one += check_beams(model, theirs, [1, 2, 3], 9, 3, 1, **options)
    assert found[0] != found[1] != found[2] != found[0]
    assert one == [texts[0] for texts in found]


def test_never_looks_no_further_than_a_penalty_for_long_texts_does(model, theirs):
    """With a length penalty below 0 a sum weighs most at the greatest length, so the present one is what counts."""
    check_beams(model, theirs, [3], 12, 4, 4, (4, 11), length_penalty=-1.0, early_stopping="never")


@pytest.mark.parametrize("settings", TOGETHER[2:])
def test_beams_with_penalties(model, theirs, settings):
    filters = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    settings = {name: value for name, value in settings.items() if name not in filters}
    arguments = (model, theirs, [1, 2, 3, 1, 3], 9, 3, 3, (9, 12))
    assert check_beams(*arguments, settings) != check_beams(*arguments)  # so the settings matter


def test_beams_with_a_minimum_of_new_tokens(model, theirs):
    arguments, options = (model, theirs, [1, 2, 3], 9, 3, 3, (9, 12, 20)), {"early_stopping": True}
    assert min(map(len, check_beams(*arguments, **options))) < 3 + 5
    assert min(map(len, check_beams(*arguments, {"min_new_tokens": 5}, **options))) >= 3 + 5


def test_beams_that_have_many_ways_to_end(model, theirs):
    """Six stop ids that are likely: twice as many continuations as beams would leave too few texts that run on."""
    stop_ids = (4, 9, 11, 12, 20, 22)
    settings = {"logit_bias": dict.fromkeys(stop_ids, 2.0)}
    for prompt in ([1, 2, 3], [12, 38]):
        options = {"length_penalty": 2.0, "early_stopping": "never"}
        check_beams(model, theirs, prompt, 6, 3, 3, stop_ids, settings, **options)
