"""python -m npgpt.sample: each setting of the choice, beam search, several samples, probabilities, time and speed."""

import math
import re
from dataclasses import fields

import numpy as np
import pytest
from helpers.commands import command, refused
from helpers.sample_runs import DRAWN, GREEDY, LETTERS, make_run, make_runs, sample, scripted

import npgpt.generation.samples
import npgpt.generation_settings
from npgpt import GPT, GPTConfig, checkpoints
from npgpt.generation import Decoder, Sampling, beam_search
from npgpt.generation.packed_model import PackedGPT
from npgpt.generation.token_lines import HEADER, token_line
from npgpt.generation_settings import ChoiceSettings
from npgpt.text.tokenizers import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer


@pytest.fixture
def work(tmp_path):
    return make_runs(tmp_path)


@pytest.fixture
def tokens(monkeypatch):
    """tokens(ids, ...) lets the model make these, one text for each."""
    return lambda *rows: monkeypatch.setattr("npgpt.generation.samples.stream", scripted(*rows))


EACH_SETTING = {
    "min_p": (("--min-p", 0.3), {"min_p": 0.3}),
    "typical_p": (("--typical-p", 0.3), {"typical_p": 0.3}),
    "repetition_penalty": (("--repetition-penalty", 5), {"repetition_penalty": 5.0}),
    "presence_penalty": (("--presence-penalty", 3), {"presence_penalty": 3.0}),
    "frequency_penalty": (("--frequency-penalty", -2), {"frequency_penalty": -2.0}),
    "no_repeat_ngram_size": (("--no-repeat-ngram-size", 1), {"no_repeat_ngram_size": 1}),
    "logit_bias": (("--logit-bias", "e:9", "--logit-bias", "t:8.5"), {"logit_bias": {7: 9.0, 22: 8.5}}),
    "bad_words": (("--bad-words", "e", "--bad-words", " t"), {"bad_words": [[7], [1, 22]]}),
}


@pytest.mark.parametrize(("typed", "settings"), EACH_SETTING.values(), ids=EACH_SETTING)
def test_each_setting_of_sampling_arrives(work, typed, settings):
    model, tokenizer = make_run(work / "runs" / "c", seed=5)
    how = {"temperature": 2.0, "seed": 1, "stop_ids": [tokenizer.end_of_text]}
    (expected,) = model.generate([tokenizer.encode("the ")], 40, **how, **settings)
    (without,) = model.generate([tokenizer.encode("the ")], 40, **how)
    assert expected.tolist() != without.tolist()
    text = tokenizer.decode(id for id in expected if id != tokenizer.end_of_text)
    more = ("--model", "runs/c", "--temperature", 2, "--max-new-tokens", 40)
    assert sample(work, *DRAWN, *more, *typed) == text + "\n"


def test_a_text_that_the_model_would_end(work):
    """<|endoftext|> is a token like others for --logit-bias, and --min-new-tokens keeps it away."""
    wish = ("--logit-bias", "<|endoftext|>:1000")
    assert sample(work, *DRAWN, *wish) == "the \n"
    assert len(sample(work, *DRAWN, *wish, "--min-new-tokens", 5)) == len("the 12345\n")
    assert len(sample(work, *DRAWN, *wish, "--min-new-tokens", 12)) == len("the 123456789012\n")  # of 12 at most


def test_bad_words_of_gpt2_are_banned_after_a_space_too(monkeypatch):
    settings = npgpt.sample.SampleSettings(bad_words=["the", " a"])
    tokenizer = GPT2Tokenizer()
    found = npgpt.generation_settings.sampling_of(settings, tokenizer, tokenizer.vocab_size).bad_words
    assert found == tuple(tuple(tokenizer.encode(text).tolist()) for text in ("the", " the", " a", "  a"))
    assert found[:2] == ((1169,), (262,))


def test_bad_words_of_a_trained_encoding_are_banned_after_a_space_too():
    tokenizer = BPETokenizer.from_texts([["the cat sat on the cat, and the cat ran to the cat. " * 9]], 280)
    settings = npgpt.sample.SampleSettings(bad_words=["cat"])
    found = npgpt.generation_settings.sampling_of(settings, tokenizer, tokenizer.vocab_size).bad_words
    assert found == tuple(tuple(tokenizer.encode(text).tolist()) for text in ("cat", " cat"))
    assert len(found[1]) == 1, "the space has become a part of the word's token"


def test_ids_of_a_padded_vocabulary_are_never_drawn():
    tokenizer = CharTokenizer("ab")
    sampling = npgpt.generation_settings.sampling_of(npgpt.sample.SampleSettings(), tokenizer, 6)
    assert sampling.logit_bias == {3: -math.inf, 4: -math.inf, 5: -math.inf}


def test_texts_that_are_no_token(work):
    for typed, words in [
        (["--logit-bias", "the:1"], "--logit-bias is for one token, and 'the' is 3: 't', 'h', 'e'"),
        (["--logit-bias", "é:1"], "the character 'é' (U+00E9) at offset 0 is unknown"),
        (["--bad-words", "é"], "the character 'é' (U+00E9) at offset 0 is unknown"),
        (["--bad-words", "a", *(f"--logit-bias={letter}:-inf" for letter in LETTERS + "a")], "no token is left"),
    ]:
        more = ["--logit-bias", "<|endoftext|>:-inf"] if "-inf" in typed[-1] else []
        ended = command("sample", "--prompt=the ", *typed, *more, cwd=work)
        assert ended.code == 2
        assert words in ended.err
        assert ended.err.count("\n") <= 3


def test_bfloat16_in_the_cache(work, monkeypatch):
    """With a model that is sure of what it says; and the cache is one."""
    caches = []
    prefill = npgpt.generation.Decoder.prefill

    def recorded(decoder, prompts, cache=None, rows=None):
        caches.append(cache.is_bfloat16)
        return prefill(decoder, prompts, cache, rows)

    monkeypatch.setattr(npgpt.generation.Decoder, "prefill", recorded)
    expected = sample(work, *GREEDY)
    assert sample(work, *GREEDY, "--cache-dtype", "bf16") == expected
    assert set(caches[: len(caches) // 2]) == {False}
    assert set(caches[len(caches) // 2 :]) == {True}


# What the new text may be, and drafts


def test_the_new_text_matches(work):
    assert re.fullmatch("the [ab]{3}\n", sample(work, *DRAWN, "--regex", "[ab]{3}"))
    found = {sample(work, *DRAWN, "--seed", seed, "--choices", "yes", "--choices", "no") for seed in range(9)}
    assert found == {"the yes\n", "the no\n"}


@pytest.mark.parametrize("draft", ["lookup", "runs/b"])
def test_a_draft_does_not_change_greedy_text(work, draft):
    for more in ((), ("--regex", "[a-d ]*")):
        ended = command("sample", *GREEDY, *more, "--draft", draft, "--draft-tokens", 2, cwd=work)
        assert (ended.code, ended.out) == (0, sample(work, *GREEDY, *more))


def test_the_number_of_drafted_tokens_arrives(work):
    ended = command("sample", *GREEDY, "--draft", "runs/a", "--draft-tokens", 2, cwd=work)
    assert "8 of 8 drafted tokens accepted (100%); 3.00 tokens a pass" in ended.err


def test_a_draft_with_other_tokens_is_refused(work):
    make_run(work / "runs" / "c", tokenizer=CharTokenizer("ab"))
    make_run(work / "runs" / "d", tokenizer=CharTokenizer("".join(sorted(LETTERS.upper()))))  # as many
    for draft in ("runs/c", "runs/d"):
        refused("sample", "--model", "runs/a", "--draft", draft, cwd=work, words=["needs the same tokenizer"])


# Beam search


def test_beams(work):
    model, tokenizer = make_run(work / "runs" / "c", seed=5)
    typed = ("--prompt", "the ", "--max-new-tokens", 6, "--model", "runs/c", "--beams", 4)
    how = {"beams": 4, "returned": 3, "stop_ids": [tokenizer.end_of_text]}
    for more, options in [
        ((), {}),
        (("--length-penalty", -2, "--early-stopping", "true"), {"length_penalty": -2.0, "early_stopping": True}),
        (("--early-stopping", "never"), {"early_stopping": "never"}),
        (("--bad-words", "e"), {"sampling": Sampling(bad_words=[[7]])}),
    ]:
        ended = command("sample", *typed, "--num-samples", 3, *more, cwd=work)
        beams = beam_search(Decoder(model), tokenizer.encode("the "), 6, **how, **options)
        texts = [tokenizer.decode(id for id in beam.ids if id != tokenizer.end_of_text) for beam in beams]
        assert (ended.code, ended.out) == (0, f"\n\n{'-' * 40}\n".join(texts) + "\n")
        assert re.fullmatch(r"4 beams of up to 6 new tokens in \d+\.\d\d s\n", ended.err)
    best = tokenizer.decode(beam_search(Decoder(model), tokenizer.encode("the "), 6, 4)[0].ids)
    assert command("sample", *typed, "--stop", best[6:8], cwd=work).out == "the " + best[4:].split(best[6:8])[0] + "\n"
    assert command("sample", *typed, "--stop", best[-2:] + "!", cwd=work).out == best + "\n"  # only its beginning came


def test_one_beam_ends_where_greedy_text_does(work):
    """A stop string is not looked for in the first tokens, and a character that isn't whole is left out."""
    text = sample(work, *GREEDY)
    half = GPT(GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=1, n_embd=8))
    for name, p in half.named_parameters():
        p.data[...] = name == "ln_f.bias"
    half.wte.weight.data[0xE3] = 1  # the likeliest byte; a character has three of this kind
    checkpoints.save(half, work / "half.safetensors", tokenizer=ByteTokenizer())
    for typed in (
        ("--max-new-tokens", 8, "--stop", text[6]),
        ("--max-new-tokens", 8, "--stop", text[4], "--min-new-tokens", 4),
        ("--max-new-tokens", 1, "--model", "half.safetensors"),
    ):
        found = command("sample", "--prompt", "the ", *typed, "--beams", 1, cwd=work).out
        assert found == sample(work, "--prompt", "the ", *typed, "--temperature", 0)
    assert found == "the \n"


@pytest.mark.parametrize(
    ("typed", "words"),
    [(("--length-penalty", 3), "--length-penalty goes with --beams"), (("--draft-tokens", 7), "goes with --draft"),
     (("--early-stopping", "true"), "--early-stopping goes with --beams")],
)  # fmt: skip
def test_flags_that_would_change_nothing(work, typed, words):
    refused("sample", *typed, cwd=work, words=[words])


@pytest.mark.parametrize(
    ("typed", "wanted"), [((), False), (("false",), False), (("true",), True), (("never",), "never")], ids=str
)
def test_when_beams_end(work, monkeypatch, typed, wanted):
    """Of an untrained model the texts would be the same."""
    asked = []
    monkeypatch.setattr(
        npgpt.generation.samples, "beam_search", lambda *given: (asked.append(given), beam_search(*given))[1]
    )
    flags = ("--early-stopping", *typed) if typed else ()
    command("sample", "--prompt", "the ", "--max-new-tokens", 2, "--beams", 2, *flags, cwd=work)
    assert [given[5] for given in asked] == [wanted]


# Several samples


def test_more_samples_than_are_made_at_once(work, monkeypatch):
    """Each is the one of its seed, and the prompt goes through the model once for all."""
    shapes = []
    hidden_states = PackedGPT.hidden_states

    def recorded(model, ids, padding_mask=None, cache=None):
        shapes.append(np.shape(ids))
        return hidden_states(model, ids, padding_mask, cache)

    monkeypatch.setattr(PackedGPT, "hidden_states", recorded)
    monkeypatch.setattr("npgpt.generation.samples.AT_ONCE", 3)
    texts = sample(work, *DRAWN, "--num-samples", 7)[:-1].split("\n\n" + "-" * 40 + "\n")
    assert shapes[0] == (1, 4)
    assert len(shapes) == 1
    assert [text + "\n" for text in texts] == [sample(work, *DRAWN, "--seed", 1 + i) for i in range(7)]
    long = ("--prompt", "the " * 9, "--max-new-tokens", 3, "--num-samples", 4)  # more than the model sees at once
    assert command("sample", *long, cwd=work).out.count("the " * 9) == 4


def test_samples_end_at_different_times_and_stand_in_their_order(tmp_path, tokens):
    make_run(tmp_path / "runs" / "a", tokenizer=ByteTokenizer())
    tokens(b"long text", b"b", b"a. not", [*b"end", 256, 1])
    texts = sample(tmp_path, "--prompt", ">", "--num-samples", 4, "--stop", ".").split("\n\n" + "-" * 40 + "\n")
    assert texts == [">long text", ">b", ">a", ">end\n"]


# Probabilities


def test_a_line_for_each_token(work):
    model, tokenizer = make_run(work / "runs" / "c", seed=5)
    typed = (*DRAWN, "--model", "runs/c", "--show-probs", "--num-samples", 2, "--stop", "zz")
    pages = sample(work, *typed).split("\n\n" + "-" * 40 + "\n")
    assert len(pages) == 2
    for row, page in enumerate(pages):
        made = list(model.stream([tokenizer.encode("the ")], 12, seed=1 + row, logprobs=5))
        lines = [token_line(token, tokenizer) for token in made]
        assert page.split("\n")[: 2 + len(lines)] == ["the ", HEADER, *lines]
        assert all(len(line) < 80 for line in lines)


def test_a_line_for_each_token_also_of_the_stop(work):
    whole = sample(work, *GREEDY, "--show-probs").split("\n")
    text = sample(work, *GREEDY)
    stopped = sample(work, *GREEDY, "--show-probs", "--stop", text[8:10]).split("\n")
    assert stopped[:-1] == whole[: 2 + text[4:].find(text[8:10]) + 2]


# When it ends


def test_time(work):
    """However little there is, each text gets a token."""
    assert len(sample(work, *DRAWN, "--max-seconds", 1e-9)) == len("the 1\n")
    assert sample(work, *DRAWN, "--max-seconds", 1e9) == sample(work, *DRAWN)


def test_the_time_is_that_of_all_texts(work, monkeypatch):
    """Also of those that are made after others: here one at a time, each of which takes ten seconds."""
    given, clock = [], iter(range(0, 1000, 10))
    samples = npgpt.generation.samples
    stream = samples.stream
    monkeypatch.setattr(samples, "stream", lambda *a, **k: given.append(k["max_seconds"]) or stream(*a, **k))
    monkeypatch.setattr(npgpt.generation.samples, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(npgpt.generation.samples, "AT_ONCE", 1)
    sample(work, *DRAWN, "--max-seconds", 25, "--num-samples", 4)
    assert given == [15, 5, 1e-9, 1e-9]


def test_how_fast(work):
    ended = command("sample", *DRAWN, "--num-samples", 2, cwd=work)
    assert ended.err.startswith("24 new; prefill: 4 tokens in ")
    assert "; decoding: 22 tokens in " in ended.err
    long = command("sample", "--prompt", "the " * 9, "--max-new-tokens", 1, cwd=work)
    cut, speed = long.err.splitlines()
    assert cut == "the model sees the last 16 of the prompt's 36 tokens"
    assert speed.startswith("1 new; prefill: 16 tokens in ")
    full = command("sample", "--prompt", "the " * 4, "--max-new-tokens", 1, cwd=work)
    assert full.err.startswith("1 new; prefill: 16 tokens in ")


def test_beam_search_follows_a_rule_or_refuses_its_flag():
    """A flag of the choice that is new must be in one of the two lists."""
    followed = {"repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "logit_bias"}
    followed |= {"bad_words"}
    assert {f.name for f in fields(ChoiceSettings)} - set(npgpt.sample.ONLY_DRAWING) == followed
