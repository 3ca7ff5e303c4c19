"""python -m npgpt.sample: which model, which prompt, which token next, and how the text comes out."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import pytest
from helpers.commands import command, refused, without_compiling
from helpers.sample_runs import DRAWN, GREEDY, SPEED, make_run, make_runs, sample, saved, scripted

import npgpt.generation
from npgpt.generation import Token
from npgpt.text.tokenizers import ByteTokenizer


@pytest.fixture
def work(tmp_path):
    return make_runs(tmp_path)


@pytest.fixture
def tokens(monkeypatch):
    """tokens(ids, ...) lets the model make these, one text for each."""
    return lambda *rows: monkeypatch.setattr("npgpt.generation.samples.stream", scripted(*rows))


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
    files = [("--model", best), ("--model", best.parent.parent), ("--adapter", best.parent / "config.json")]
    for flag, what in [*files, ("--model", "gpt2")]:
        words = [f"--checkpoint best is for the folder of a run, and {what} is none: leave it out"]
        refused("sample", flag, what, "--checkpoint", "best", cwd=work, words=words)


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


# How it comes out


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

        def isatty(self):
            return False

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
        assert without_compiling(sampling.stderr.read().decode()) == ""
        assert sampling.wait(timeout=60) == 0


def test_ctrl_c(work):
    with start(work, *ENDLESS) as sampling:
        sampling.stdout.read(10)
        sampling.send_signal(signal.SIGINT)
        _, err = sampling.communicate(timeout=60)
        assert (sampling.returncode, without_compiling(err.decode())) == (130, "stopped\n")


def test_ctrl_c_where_its_exception_is_lost(work, monkeypatch):
    """As in a callback of LLVM's: it ends the text after the token."""

    def stream_that_loses_it(*arguments, **options):
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            yield Token(0, 3)

    monkeypatch.setattr("npgpt.generation.samples.stream", stream_that_loses_it)
    before = signal.getsignal(signal.SIGINT)
    ended = command("sample", "--prompt", "the ", cwd=work)
    assert (ended.code, ended.out, ended.err) == (130, "the ", "stopped\n")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("is_terminal", "written"), [(True, "the \n"), (False, "the ")])
def test_a_terminals_line_ends_where_ctrl_c_comes(work, monkeypatch, is_terminal, written):
    """What is said then stands on a line of its own. A file gets the text alone."""

    def interrupted(*arguments, **options):
        yield Token(0, 3)
        raise KeyboardInterrupt

    class Output(io.StringIO):
        def isatty(self):
            return is_terminal

    monkeypatch.setattr("npgpt.generation.samples.stream", interrupted)
    monkeypatch.setattr(sys, "argv", ["sample", "--prompt", "the "])
    monkeypatch.setattr(sys, "stdout", Output())
    monkeypatch.chdir(work)
    with pytest.raises(KeyboardInterrupt):
        npgpt.sample.main()
    assert sys.stdout.getvalue() == written


def test_a_terminal_that_has_not_all_characters(tmp_path):
    """It shows a question mark, rather than that the text breaks off with a traceback."""
    make_run(tmp_path / "runs" / "a", tokenizer=ByteTokenizer())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with start(tmp_path, "--prompt", "née", "--max-new-tokens", 1, "--stop", "x", env=environment) as sampling:
        out, err = sampling.communicate(timeout=60)
    assert sampling.returncode == 0
    assert SPEED.fullmatch(without_compiling(err.decode()))
    assert out.startswith(b"n?e")


def test_threads(work):
    code = "from npgpt.sample import main; main(); import numba; print(numba.get_num_threads())"
    typed = [sys.executable, "-c", code, *map(str, GREEDY), "--threads", "1"]
    ended = subprocess.run(typed, cwd=work, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, sample(work, *GREEDY) + "1\n")
    assert SPEED.fullmatch(without_compiling(ended.stderr))
