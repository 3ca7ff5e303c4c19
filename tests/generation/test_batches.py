"""Each text of a batch is, to the token, what it is alone: of any length, past the context, whatever the others do."""

import numpy as np
import pytest
from helpers.texts import CONFIG, each_option, random_model, random_prompts, record

from npgpt.generation import Decoder, Prefix, generate, stream
from npgpt.optim import AdamW

NEW = 14  # more than the context of 8
LENGTHS = 3, 1, 8, 6, 11, 3
HOWS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.5},
    "with a history": {"temperature": 0, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "sampled with a history": {"presence_penalty": 0.5, "frequency_penalty": 0.3, "top_p": 0.9, "min_new_tokens": 4},
}
each_how = pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)


def assert_equal(found, expected):
    assert [text.tolist() for text in found] == [text.tolist() for text in expected]


def alone(model, prompts, seed=5, **options):
    """The texts one by one, each with the generator that it has in a batch."""
    return [generate(model, [prompt], NEW, seed=seed + i, **options)[0] for i, prompt in enumerate(prompts)]


@each_option
@each_how
def test_a_batch_equals_its_texts_alone(changes, how):
    model, prompts = random_model(**changes), random_prompts(*LENGTHS)
    expected = alone(model, prompts, stop_ids=[2, 3], **how)
    found = generate(model, prompts, NEW, seed=5, stop_ids=[2, 3], **how)
    assert_equal(found, expected)
    assert_equal(generate(model, prompts, NEW, seed=5, stop_ids=[2, 3], use_cache=False, **how), expected)


def test_the_compared_texts_differ():
    """They differ, they end at different times and also not at all, and they pass the context at different times."""
    model, prompts = random_model(), random_prompts(*LENGTHS)
    for how, different in (({"temperature": 0}, 4), ({"temperature": 1.5}, 6)):
        texts = generate(model, prompts, NEW, seed=5, stop_ids=[2, 3], **how)
        assert len({tuple(text[n:]) for text, n in zip(texts, LENGTHS, strict=True)}) >= different
    lengths = [len(text) - n for text, n in zip(texts, LENGTHS, strict=True)]
    assert len(set(lengths)) > 2
    assert NEW in lengths


def test_float32_too():
    model, prompts = random_model(dtype=np.float32), random_prompts(*LENGTHS)
    assert_equal(generate(model, prompts, NEW, seed=5), alone(model, prompts))


def test_a_batch_equals_that_of_transformers():
    """Which pads on the left, and hides the padding with a mask."""
    torch = pytest.importorskip("torch", reason="compares with transformers, which is not installed")
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    model, prompts = random_model(dtype=np.float32, block_size=32), random_prompts(*LENGTHS)
    config = transformers.GPT2Config(vocab_size=23, n_positions=32, n_embd=8, n_layer=2, n_head=2, eos_token_id=2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    state = {f"transformer.{name}": torch.from_numpy(array) for name, array in model.state_dict().items()}
    assert theirs.load_state_dict(state, strict=False) == (["lm_head.weight"], [])  # which is wte.weight
    ids, mask = np.zeros((2, len(prompts), max(LENGTHS)), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    expected = theirs.generate(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), max_new_tokens=NEW, do_sample=False,
        repetition_penalty=1.3, no_repeat_ngram_size=3, pad_token_id=0,
    ).numpy()  # fmt: skip
    how = {"temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "stop_ids": [2]}
    found = generate(model, prompts, NEW, **how)
    for row, prompt in enumerate(prompts):
        new = found[row][len(prompt) :]
        assert new.tolist() == expected[row, max(LENGTHS) :][: len(new)].tolist()
        assert len(new) == NEW or new[-1] == 2


@pytest.fixture(scope="module")
def trained():
    """A model that knows a text of 40 ids by heart, and the text."""
    text = np.random.default_rng(7).permutation(np.repeat(np.arange(20), 2))
    model = random_model(dtype=np.float32, block_size=16)
    optimizer = AdamW(model.named_parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    windows = np.lib.stride_tricks.sliding_window_view(text, 17)
    for _ in range(150):
        model.loss(windows[:, :-1], windows[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, text


def test_bfloat16_makes_the_same_text_with_a_trained_model(trained):
    model, text = trained
    for cache_dtype in ("f32", "bf16"):
        decoder = Decoder(model, cache_dtype=cache_dtype)
        (found,) = generate(decoder, [text[:6]], 34, temperature=0)
        assert found.tolist() == text.tolist()
    drawn = [generate(Decoder(model, cache_dtype=dtype), [text[:6]] * 4, 10, seed=0) for dtype in ("f32", "bf16")]
    np.testing.assert_array_equal(*drawn)


def test_a_batch_in_bfloat16_equals_its_texts_alone():
    decoder = Decoder(random_model(dtype=np.float32), cache_dtype="bf16")
    prompts = random_prompts(*LENGTHS)
    assert_equal(generate(decoder, prompts, NEW, seed=5), alone(decoder, prompts))


def test_a_text_that_has_ended_costs_nothing():
    model, prompts = random_model(), random_prompts(2, 2, 2)
    computed = record(model, lambda ids, cache: ids.shape)
    # stop_if ends the rows after 1, 4 and 2 tokens
    ends = {0: 1, 1: 4, 2: 2}
    made = dict.fromkeys(ends, 0)

    def stop_if(token):
        made[token.row] += 1
        return made[token.row] == ends[token.row]

    tokens = list(stream(model, prompts, 6, seed=0, stop_if=stop_if))
    assert [token.row for token in tokens] == [0, 1, 2, 1, 2, 1, 1]
    assert [token.ended for token in tokens] == ["stop", None, None, None, "stop", None, "stop"]
    assert computed == [(3, 2), (2, 1), (1, 1), (1, 1)]


def test_only_rows_past_the_context_are_computed_again():
    model, prompts = random_model(), random_prompts(7, 2)
    computed = record(model, lambda ids, cache: ids.shape)
    generate(model, prompts, 4, temperature=0)
    # 7 and 2 ids; one more of each; then the first has 9, and goes through the model anew each time
    assert computed == [(2, 7), (1, 1), (1, 1), (1, 1), (1, 8), (1, 1), (1, 8)]


# Several samples of one prompt


@each_option
def test_samples_share_their_prompt_and_equal_separate_ones(changes):
    model, prompts = random_model(**changes), random_prompts(5, 11)
    expected = alone(model, [prompts[0]] * 3 + [prompts[1]] * 3)
    passes = record(model, lambda ids, cache: ids.shape)
    found = generate(model, prompts, NEW, seed=5, num_samples=3)
    assert_equal(found, expected)
    # both prompts once; then one id of each of three texts, and the windows of those past the context
    assert passes[:3] == [(2, 8), (3, 1), (3, 8)]
    assert len({tuple(text) for text in found}) == 6


def test_samples_without_a_cache_share_their_prompt_too():
    model, prompts = random_model(), random_prompts(5, 2)
    passes = record(model, lambda ids, cache: ids.shape)
    found = generate(model, prompts, NEW, seed=5, num_samples=2, use_cache=False)
    assert passes[:2] == [(2, 5), (4, 6)]
    assert_equal(found, alone(model, [prompts[0]] * 2 + [prompts[1]] * 2))


# A prefix that is kept


@pytest.mark.parametrize("cache_dtype", ["f32", "bf16"])
def test_a_prompt_that_begins_like_a_prefix_computes_only_the_rest(cache_dtype):
    model = random_model(dtype=np.float32)
    decoder = Decoder(model, weights=None, cache_dtype=cache_dtype)  # single ids go through the model, too
    (begin,) = random_prompts(5)
    prefix = Prefix.compute(decoder, begin)
    other = (begin + 1) % CONFIG.vocab_size
    prompts = [[*begin, 1, 2], begin, begin[:3], [*begin[:2], *other[2:4]], other, [*begin, *begin]]
    expected = alone(decoder, prompts)
    passes = record(model, lambda ids, cache: (cache.length, ids.shape))
    assert_equal(generate(decoder, prompts, NEW, seed=5, prefix=prefix), expected)
    # (positions that rows hold, shape of the new ids): one id of two rows, then several of the others. The last
    # prompt is longer than the context, so its window doesn't begin where the prefix does
    assert passes[:5] == [(2, (1, 1)), (4, (1, 1)), (0, (2, 8)), (2, (1, 2)), (5, (1, 2))]
    passes.clear()
    assert_equal(generate(decoder, [prompts[0]], NEW, seed=5, num_samples=2, prefix=prefix)[:1], expected[:1])
    assert passes[0] == (5, (1, 2))
    assert prefix.cache.length == 5  # and it is as it was
