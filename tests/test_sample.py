"""python -m npgpt.sample: which model, which prompt, which token next, and how the text comes out."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import command
from helpers.models import with_random_parameters

import npgpt.generation
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.generation import Decoder, Sampling, Token, beam_search
from npgpt.generation.token_lines import HEADER, token_line
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=2, n_embd=8)
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"


def make_run(folder, seed=0, tokenizer=None, prompt=""):
    """A run with a model that was never trained, but makes another text for each seed; of letters, if not told.

    -> model, tokenizer
    """
    tokenizer = tokenizer or CharTokenizer("".join(sorted(LETTERS)))
    config = GPTConfig(**{**CONFIG.to_dict(), "vocab_size": tokenizer.vocab_size})
    folder.mkdir(parents=True)
    write_run_config(folder, config, {}, TrainSettings().resolve(1, 16, prompt))
    write_json(folder / "tokenizer.json", tokenizer.to_dict())
    model = with_random_parameters(GPT(config), seed)
    model.wte.weight.data[tokenizer.end_of_text] = 0  # a logit of 0, well below the largest
    runs.save_weights(folder / "last.safetensors", model.state_dict(), config)
    return model, tokenizer


def saved(run, hour):
    os.utime(run / "last.safetensors", (hour * 3600, hour * 3600))


@pytest.fixture
def work(tmp_path):
    """A working folder with runs/a, the newer one, and runs/b."""
    for name, seed, hour in (("a", 1, 11), ("b", 2, 10)):
        make_run(tmp_path / "runs" / name, seed)
        saved(tmp_path / "runs" / name, hour)
    return tmp_path


SPEED = re.compile(
    r"[\d,]+ new; prefill: \d+ tokens? in [\d.]+ s \([\d.]+/s\)(; decoding: \d+ tokens? in .* s \(.*/s\))?\n"
)


def sample(work, *arguments, **options) -> str:
    ended = command("sample", *arguments, cwd=work, **options)
    assert ended.code == 0, ended
    assert SPEED.fullmatch(ended.err), ended
    return ended.out


GREEDY = ("--greedy", "--max-new-tokens", 12, "--prompt", "the ")
DRAWN = ("--max-new-tokens", 12, "--prompt", "the ", "--seed", 1)


# Which model


def test_the_newest_run_unless_told_otherwise(work):
    a, b = (sample(work, *GREEDY, "--model", f"runs/{name}") for name in "ab")
    assert a != b
    assert sample(work, *GREEDY) == a
    saved(work / "runs" / "b", 12)
    assert sample(work, *GREEDY) == b
    (work / "runs" / "c").mkdir()  # a run that hasn't saved anything yet
    assert sample(work, *GREEDY) == b


def test_the_best_weights_by_name_or_by_file(work):
    best, last = work / "runs" / "a" / "best.safetensors", work / "runs" / "a" / "last.safetensors"
    a, b = (sample(work, *GREEDY, "--model", f"runs/{name}") for name in "ab")
    assert sample(work, *GREEDY, "--checkpoint", "best") == a  # there is none
    best.write_bytes((work / "runs" / "b" / "last.safetensors").read_bytes())
    assert sample(work, *GREEDY, "--checkpoint", "best") == b
    assert sample(work, *GREEDY, "--checkpoint", "last") == sample(work, *GREEDY) == a
    assert sample(work, *GREEDY, "--model", best) == b
    assert sample(work, *GREEDY, "--model", last) == a


# Which prompt


def test_prompts(work):
    expected = sample(work, *GREEDY)
    assert expected.startswith("the ")
    (work / "prompt.txt").write_bytes(b"the ")
    (work / "with a mark.txt").write_bytes(b"\xef\xbb\xbfthe ")  # as Notepad writes UTF-8
    rest = GREEDY[:3]
    assert sample(work, *rest, "--prompt-file", "prompt.txt") == expected
    assert sample(work, *rest, "--prompt-file", "with a mark.txt") == expected
    assert sample(work, *rest, "--prompt-file", "-", stdin=b"the ") == expected
    assert sample(work, *rest, "--start=the ") == expected


def test_without_a_prompt_the_text_begins_as_the_samples_in_training(tmp_path):
    make_run(tmp_path / "runs" / "a", prompt="the ")
    assert sample(tmp_path, *GREEDY[:3]) == sample(tmp_path, *GREEDY)


def test_without_any_prompt_it_begins_after_the_end_of_a_text(work):
    model, tokenizer = make_run(work / "runs" / "c", seed=5)
    expected = model.generate([[tokenizer.end_of_text]], 12, temperature=0)[0, 1:]
    assert sample(work, *GREEDY[:3], "--model", "runs/c") == tokenizer.decode(expected) + "\n"
    assert sample(work, *GREEDY[:3], "--model", "runs/c", "--prompt", "") == tokenizer.decode(expected) + "\n"


# Which token


def test_the_seed(work):
    texts = {seed: sample(work, *DRAWN, "--seed", seed) for seed in range(5)}
    assert len(set(texts.values())) == 5
    assert sample(work, *DRAWN, "--seed", 3) == texts[3]
    several = sample(work, *DRAWN, "--seed", 1, "--num-samples", 3).split("\n\n" + "-" * 40 + "\n")
    assert several[:2] == [texts[1][:-1], texts[2][:-1]]
    assert several[2] == texts[3]


def test_without_a_seed_it_is_another_text_each_time(work):
    typed = ("--max-new-tokens", 40, "--prompt", "the ", "--temperature", 2)
    assert sample(work, *typed) != sample(work, *typed)


def test_the_ways_to_be_greedy(work):
    expected = sample(work, *GREEDY)
    assert sample(work, *DRAWN, "--temperature", 0) == expected
    assert sample(work, *DRAWN, "--top-k", 1) == expected
    assert sample(work, *DRAWN, "--top-p", 1e-9) == expected
    assert sample(work, *DRAWN, "--temperature", 1e-9) == expected
    assert sample(work, *GREEDY, "--temperature", 2, "--seed", 9) == expected
    assert sample(work, *DRAWN, "--no-greedy") != expected


def test_the_settings_of_sampling_arrive(work):
    model, tokenizer = make_run(work / "runs" / "c", seed=5)
    settings = {"temperature": 1.5, "top_k": 9, "top_p": 0.7}
    expected = model.generate([tokenizer.encode("the ")], 12, seed=1, **settings)[0]
    typed = ("--temperature", 1.5, "--top-k", 9, "--top-p", 0.7)
    text = sample(work, *DRAWN, "--model", "runs/c", *typed)
    assert text == tokenizer.decode(expected) + "\n"
    for left_out in range(0, 6, 2):
        assert sample(work, *DRAWN, "--model", "runs/c", *typed[:left_out], *typed[left_out + 2 :]) != text
    defaults = model.generate([tokenizer.encode("the ")], 12, seed=1)[0]
    assert sample(work, *DRAWN, "--model", "runs/c") == tokenizer.decode(defaults) + "\n"
    hot = (*DRAWN, "--temperature", 9, "--model", "runs/c")
    assert sample(work, *hot, "--top-k", 0) == sample(work, *hot, "--top-k", 999) != sample(work, *hot, "--top-k", 2)


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


def test_bad_words_of_gpt2_are_banned_after_a_space_too(monkeypatch):
    settings = npgpt.sample.SampleSettings(bad_words=["the", " a"])
    tokenizer = GPT2Tokenizer()
    found = npgpt.sample._sampling(settings, tokenizer, tokenizer.vocab_size).bad_words
    assert found == tuple(tuple(tokenizer.encode(text).tolist()) for text in ("the", " the", " a", "  a"))
    assert found[:2] == ((1169,), (262,))


def test_ids_of_a_padded_vocabulary_are_never_drawn():
    tokenizer = CharTokenizer("ab")
    sampling = npgpt.sample._sampling(npgpt.sample.SampleSettings(), tokenizer, 6)
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


# Several samples


def test_more_samples_than_are_made_at_once(work, monkeypatch):
    """Each is the one of its seed, and the prompt goes through the model once for all."""
    shapes = []
    hidden_states = GPT.hidden_states

    def recorded(model, ids, padding_mask=None, cache=None):
        shapes.append(np.shape(ids))
        return hidden_states(model, ids, padding_mask, cache)

    monkeypatch.setattr(GPT, "hidden_states", recorded)
    monkeypatch.setattr(npgpt.sample, "SAMPLES_AT_ONCE", 3)
    texts = sample(work, *DRAWN, "--num-samples", 7)[:-1].split("\n\n" + "-" * 40 + "\n")
    assert shapes == [(1, 4)]
    assert [text + "\n" for text in texts] == [sample(work, *DRAWN, "--seed", 1 + i) for i in range(7)]


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
    stream = npgpt.generation.stream
    monkeypatch.setattr(npgpt.generation, "stream", lambda *a, **k: given.append(k["max_seconds"]) or stream(*a, **k))
    monkeypatch.setattr(npgpt.sample, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(npgpt.sample, "SAMPLES_AT_ONCE", 1)
    sample(work, *DRAWN, "--max-seconds", 25, "--num-samples", 4)
    assert given == [15, 5, 1e-9, 1e-9]


def test_how_fast(work):
    ended = command("sample", *DRAWN, "--num-samples", 2, cwd=work)
    assert ended.err.startswith("24 new; prefill: 4 tokens in ")
    assert "; decoding: 22 tokens in " in ended.err
    long = command("sample", "--prompt", "the " * 9, "--max-new-tokens", 1, cwd=work)
    assert long.err.startswith("1 new; prefill: 16 tokens in ")  # the context


# How it comes out


@pytest.fixture
def tokens(monkeypatch):
    """tokens(ids, ...) lets the model make these in the rows 0, ..., one of each in turn, whatever it is asked."""

    def script(*rows):
        def stream(*arguments, stop_if, stop_ids, **options):
            left = dict(enumerate(map(list, rows)))
            while left:
                for row in list(left):
                    token = Token(row, left[row].pop(0))
                    stopped = stop_if(token) or token.id in stop_ids
                    if stopped or not left[row]:
                        del left[row]
                        token = replace(token, ended="stop" if stopped else "length")
                    yield token

        monkeypatch.setattr(npgpt.generation, "stream", stream)

    return script


@pytest.mark.parametrize("stop", ["THE END", "END", "é", "D", "\n"])
def test_a_stop_is_not_printed_however_many_tokens_it_takes(tmp_path, tokens, stop):
    make_run(tmp_path / "runs" / "a", tokenizer=ByteTokenizer())
    tokens([*b"TH TEND THE E", *f"{stop} and more".encode()])
    written = f"a TH TEND THE E{stop}".replace(stop, "\0")
    assert sample(tmp_path, "--prompt", "a ", "--stop", stop) == written[: written.index("\0")] + "\n"
    several = ("--stop", "never", "--stop", stop, "--stop", "END of")
    assert sample(tmp_path, "--prompt", "a ", *several) == written[: written.index("\0")] + "\n"


def test_a_text_ends_where_the_model_ends_it(tmp_path, tokens):
    make_run(tmp_path / "runs" / "a", tokenizer=ByteTokenizer())
    tokens([*b"the end", 256, *b"another"])
    assert sample(tmp_path, "--prompt", "this is ") == "this is the end\n"


def start(work, *arguments, **options):
    typed = [sys.executable, "-m", "npgpt.sample", *map(str, arguments)]
    return subprocess.Popen(typed, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


ENDLESS = ("--prompt", "the ", "--max-new-tokens", 10**6, "--greedy")


def test_each_token_is_flushed(work, monkeypatch, tokens):
    """One at a time, also those that complete no character or may be a stop: then there is nothing to write."""
    written = []

    class Terminal:
        def write(self, text):
            written.append(text)

        def flush(self):
            written.append("|")

    make_run(work / "runs" / "c", tokenizer=ByteTokenizer())
    monkeypatch.chdir(work)
    tokens("aé!.".encode())
    monkeypatch.setattr(sys, "argv", ["sample", "--model", "runs/c", "--prompt=the ", "--stop", "!!"])
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert npgpt.sample.main() == 0
    assert "".join(written).replace("||", "|").replace("||", "|") == "the |a|é|!.\n|"


def test_output_into_head(work):
    """The reader goes away; that is not an error."""
    with start(work, *ENDLESS) as sampling:
        sampling.stdout.read(10)
        sampling.stdout.close()
        assert sampling.stderr.read() == b""
        assert sampling.wait(timeout=60) == 0


def test_ctrl_c(work):
    with start(work, *ENDLESS) as sampling:
        sampling.stdout.read(10)
        sampling.send_signal(signal.SIGINT)
        _, err = sampling.communicate(timeout=60)
        assert (sampling.returncode, err) == (130, b"stopped\n")


def test_ctrl_c_where_its_exception_is_lost(work, monkeypatch):
    """As in a callback of LLVM's: it ends the text after the token."""

    def stream_that_loses_it(*arguments, **options):
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            yield Token(0, 3)

    monkeypatch.setattr("npgpt.generation.stream", stream_that_loses_it)
    before = signal.getsignal(signal.SIGINT)
    ended = command("sample", "--prompt", "the ", cwd=work)
    assert (ended.code, ended.out, ended.err) == (130, "the ", "stopped\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_terminal_that_has_not_all_characters(tmp_path):
    """It shows a question mark, rather than that the text breaks off with a traceback."""
    make_run(tmp_path / "runs" / "a", tokenizer=ByteTokenizer())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with start(tmp_path, "--prompt", "née", "--max-new-tokens", 1, "--stop", "x", env=environment) as sampling:
        out, err = sampling.communicate(timeout=60)
    assert sampling.returncode == 0
    assert SPEED.fullmatch(err.decode())
    assert out.startswith(b"n?e")


def test_threads(work):
    code = "from npgpt.sample import main; main(); import numba; print(numba.get_num_threads())"
    typed = [sys.executable, "-c", code, *map(str, GREEDY), "--threads", "1"]
    ended = subprocess.run(typed, cwd=work, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, sample(work, *GREEDY) + "1\n")
    assert SPEED.fullmatch(ended.stderr)
