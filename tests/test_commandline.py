"""What the commands do with what is typed: flags and their spellings, and help."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.commands import Ended, assert_refused, command, listing, process, refused

from npgpt.commandline import Parser
from npgpt.config import ACTIVATIONS, BASE_FORMATS, MATMUL_PRECISIONS, POSITIONS, PRESETS
from npgpt.sample import SampleSettings
from npgpt.schedules import SCHEDULES
from npgpt.text import LOSSES
from npgpt.training.settings import TrainSettings


def parse(settings, *arguments) -> dict:
    parser = Parser("train", "")
    parser.add_flags(settings)
    return vars(parser.parse_args(arguments))


# Flags: what each takes

WHOLE_FROM_1 = [
    "context", "stride", "batch-size", "n-layer", "n-head", "n-embd", "n-inner", "max-steps", "patience", "grad-accum",
    "decay-steps", "log-every", "eval-every", "eval-batches", "sample-tokens", "threads", "lora-rank",
]  # fmt: skip
WHOLE_FROM_0 = ["warmup", "sample-every", "seed", "keep"]
ABOVE_0 = ["epochs", "lr", "lora-alpha"]
FROM_0 = ["min-delta", "min-lr", "grad-clip", "weight-decay"]
FROM_0_BELOW_1 = ["val-fraction", "dropout", "beta1", "beta2", "decay-fraction", "lora-dropout"]
WORDS = {
    "tokenizer": ["gpt2", "char", "byte", "bpe:257", "bpe:100000"],
    "loss-on": LOSSES,
    "split-by": ["tokens", "documents"],
    "preset": [*PRESETS, "auto"],
    "position": POSITIONS,
    "activation": ACTIVATIONS,
    "matmul-precision": MATMUL_PRECISIONS,
    "schedule": SCHEDULES,
    "lora-base": BASE_FORMATS,
}
SWITCHES = ["bias", "qkv-bias", "tie-weights", "tensorboard", "recompute"]
NAMES = ["out", "init-from"]
TEXTS = ["sample-prompt"]
PATTERNS = ["lora-targets", "freeze", "train-only"]

FROM_0_OF_SAMPLE = ["min-new-tokens", "no-repeat-ngram-size"]

NOT_NUMBERS = ["", " ", "x", "nan", "inf", "-inf", "0x10", "1,5", "1e999", "9" * 5000, "True"]
NOT_FROM_0 = [*NOT_NUMBERS, "-1", "-0.5"]
BAD = (
    [("train", f, v) for f in WHOLE_FROM_1 for v in [*NOT_FROM_0, "0", "1.5", "1e3", "2147483648"]]
    + [("train", f, v) for f in WHOLE_FROM_0 for v in [*NOT_FROM_0, "1.5", "1e3", str(2**63)]]
    + [("train", f, v) for f in ABOVE_0 for v in [*NOT_FROM_0, "0", "0.0"]]
    + [("train", f, v) for f in FROM_0 for v in NOT_FROM_0]
    + [("train", f, v) for f in FROM_0_BELOW_1 for v in [*NOT_FROM_0, "1", "1.5"]]
    + [("train", "time-budget", v) for v in [*NOT_FROM_0, "0", "0s", "m", "10x", "1m1h", "1h1h", "h10"]]
    + [("train", f, v) for f in PATTERNS for v in ["", " ", ",", "wte,", ",wte", "wte,,wpe"]]
    + [
        ("train", "lr-for", v)
        for v in ["", "wte", "wte=", "=1", "wte=x", "wte=0", "wte=-1", "wte=nan", "wte=inf", "wte=1,"]
    ]
    + [("train", f, v) for f in WORDS for v in ["", "x", "0", "GPT2"]]
    + [("train", f, v) for f in SWITCHES for v in ["", "x", "False", "0"]]  # they take no value
    + [("train", f, "") for f in [*NAMES, "resume"]]
    + [("sample", f, v) for f in ("num-samples", "max-new-tokens", "threads") for v in [*NOT_FROM_0, "0"]]
    + [("sample", f, v) for f in ("beams", "draft-tokens") for v in [*NOT_FROM_0, "0"]]
    + [("sample", f, v) for f in ("seed", "top-k", *FROM_0_OF_SAMPLE) for v in [*NOT_FROM_0, "1.5"]]
    + [("sample", "temperature", v) for v in NOT_FROM_0]
    + [("sample", f, v) for f in ("top-p", "typical-p") for v in [*NOT_FROM_0, "0", "1.01"]]
    + [("sample", "min-p", v) for v in [*NOT_FROM_0, "1.01"]]
    + [("sample", f, v) for f in ("repetition-penalty", "max-seconds") for v in [*NOT_FROM_0, "0"]]
    + [("sample", f, v) for f in ("presence-penalty", "frequency-penalty") for v in [*NOT_NUMBERS, "1001", "-1001"]]
    + [("sample", "length-penalty", v) for v in [*NOT_NUMBERS, "20.5", "-21"]]
    + [("sample", f, v) for f in ("checkpoint", "cache-dtype", "early-stopping") for v in ("", "x", "0")]
    + [("sample", f, v) for f in ("greedy", "show-probs") for v in ("", "1")]
    + [("sample", f, "") for f in ("model", "adapter", "prompt-file", "stop", "bad-words", "regex", "choices", "draft")]
    + [("sample", "weights", v) for v in ("", "int2")]
    + [("sample", "logit-bias", v) for v in ("", "a", "a:", ":1", "a:b", "a:nan", "a:inf", "a=1")]
)


def test_every_flag_with_every_bad_value(folder):
    before = listing(folder)
    for name, flag, value in BAD:
        ended = command(name, *(["text.txt"] if name == "train" else []), f"--{flag}={value}", cwd=folder)
        assert_refused(ended, f"--{flag}")
    assert listing(folder) == before


def test_no_flag_is_forgotten_above():
    def flags(settings):
        return {name.replace("_", "-") for name, f in settings.__dataclass_fields__.items() if "type" in f.metadata}

    of_train = {*WHOLE_FROM_1, *WHOLE_FROM_0, *ABOVE_0, *FROM_0, *FROM_0_BELOW_1, *WORDS, *SWITCHES, *NAMES, *TEXTS}
    of_train |= {*PATTERNS, "lr-for"}
    assert flags(TrainSettings) == of_train | {"time-budget"}
    bad_for_sample = {flag for name, flag, _ in BAD if name == "sample"}
    assert flags(SampleSettings) == bad_for_sample | {"prompt"}  # which may be any text


def test_the_values_at_the_bounds_are_good():
    for flag in WHOLE_FROM_1:
        assert parse(TrainSettings, f"--{flag}", "1") == {flag.replace("-", "_"): 1}
    for flag in WHOLE_FROM_0:
        assert parse(TrainSettings, f"--{flag}", "0") == {flag.replace("-", "_"): 0}
    for flag in [*FROM_0, *FROM_0_BELOW_1]:
        assert parse(TrainSettings, f"--{flag}", "0") == {flag.replace("-", "_"): 0}
    for flag in [*ABOVE_0, *FROM_0, *FROM_0_BELOW_1]:
        assert parse(TrainSettings, f"--{flag}", "1e-300") == {flag.replace("-", "_"): 1e-300}
    for flag, words in WORDS.items():
        for word in words:
            assert parse(TrainSettings, f"--{flag}", word) == {flag.replace("-", "_"): word}
    assert parse(TrainSettings, "--seed", str(2**63 - 1)) == {"seed": 2**63 - 1}
    for text, seconds in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("1h2m3.5s", 3723.5)]:
        assert parse(TrainSettings, "--time-budget", text) == {"time_budget": seconds}
    assert parse(TrainSettings, "--max-steps", str(2**31 - 1)) == {"max_steps": 2**31 - 1}
    assert parse(SampleSettings, "--temperature=0", "--top-p=1", "--seed=0") == {
        "temperature": 0,
        "top_p": 1,
        "seed": 0,
    }


def test_the_message_says_what_is_wanted(folder):
    for typed, words in [
        (["--lr", "fast"], "argument --lr/--learning-rate: must be a number above 0, not 'fast'"),
        (["--dropout", "1"], "argument --dropout: must be a number of at least 0 and below 1, not 1"),
        (["--context", "0"], "must be a whole number from 1 to 2,147,483,647, not 0"),
        (
            ["--tokenizer", "bpe"],
            "argument --tokenizer: there is no tokenizer 'bpe'; there are gpt2, char, byte",
        ),
        (["--out", ""], "argument --out/--out-dir: the name is empty"),
        (["--lernrate", "1"], "unrecognized arguments: --lernrate"),
        (["--batch_sise=1"], "unrecognized arguments: --batch_sise=1"),
        (["--batch", "1"], "unrecognized arguments: --batch"),  # no flag is guessed from its beginning
        (["--lr"], "expected one argument"),
    ]:
        refused("train", "text.txt", *typed, cwd=folder, words=[words, "python -m npgpt.train --help lists the flags"])


def in_a_fresh_python(python, name, *arguments) -> tuple[Ended, list[str]]:
    """A command, and which of the packages that are slow to import it has imported by its end."""
    ended = python(
        "import atexit, runpy, sys\n"
        "slow = {'numpy', 'numba', 'llvmlite', 'tiktoken', 'tqdm'}\n"
        "atexit.register(lambda: print('\\nimported:', *slow & set(sys.modules), file=sys.stderr))\n"
        f"sys.argv[1:] = {list(arguments)}\n"
        f"runpy.run_module('npgpt.{name}', run_name='__main__')",
        COLUMNS="80",
    )
    err, imported = ended.stderr.split("\nimported:")
    return Ended(ended.returncode, ended.stdout, err), imported.split()


def test_a_wrong_flag_is_answered_before_anything_slow_is_imported(python):
    for name, *arguments in [
        ("train", "text.txt", "--lr", "0"),
        ("train", "text.txt", "--max-steps", "5", "--epochs", "1"),
        ("train",),
        ("sample", "--top-p", "0"),
        ("sample", "--prompt", "a", "--prompt-file", "b"),
    ]:
        ended, imported = in_a_fresh_python(python, name, *arguments)
        assert_refused(ended)
        assert not imported


def test_flags_that_contradict_each_other(folder):
    for typed, words in [
        (["--max-steps", 5, "--epochs", 1], "--max-steps and --epochs both say how long to train"),
        (["--init-from", "x", "--preset", "nano"], "leave out --preset"),
        (["--n-embd", 64, "--n-head", 3], "n_embd must be divisible by n_head"),
        (["--position", "rotary", "--n-embd", 6, "--n-head", 2], "n_embd / n_head must be even"),
    ]:
        refused("train", "text.txt", *typed, cwd=folder, words=[words])
    for typed, words in [
        (["--prompt", "a", "--prompt-file", "text.txt"], "give one"),
        (["--min-new-tokens", 5, "--max-new-tokens", 4], "--min-new-tokens 5 is above --max-new-tokens 4"),
        (["--beams", 2, "--num-samples", 3], "--num-samples 3: a search finds no more texts than --beams"),
        (["--beams", 2, "--show-probs"], "--show-probs goes with drawing, not with --beams"),
        (["--beams", 2, "--max-seconds", 1], "--max-seconds goes with drawing, not with --beams"),
        (["--beams", 2, "--regex", "a"], "--regex goes with drawing, not with --beams"),
        (["--beams", 2, "--choices", "a", "--choices", "b"], "--choices goes with drawing, not with --beams"),
        (["--beams", 2, "--top-k", 3], "--top-k goes with drawing, not with --beams"),
        (["--beams", 2, "--seed", 0], "--seed goes with drawing, not with --beams"),
        (["--beams", 2, "--draft", "lookup"], "--draft goes with drawing, not with --beams"),
        (["--regex", "a", "--choices", "a", "--choices", "b"], "--regex and --choices"),
        (["--choices", "a"], "--choices"),
    ]:
        refused("sample", *typed, cwd=folder, words=[words])


def test_flags_that_can_be_given_several_times():
    typed = [
        "--stop", "a", "--stop=b c", "--bad-words", "x", "--bad_words=x", "--logit-bias", "a:1", "--logit_bias=:::-inf",
    ]  # fmt: skip
    assert parse(SampleSettings, *typed) == {
        "stop": ["a", "b c"], "bad_words": ["x", "x"], "logit_bias": [("a", 1.0), ("::", float("-inf"))],
    }  # fmt: skip


# Flags: how they may be written


def test_underscores_and_equals_signs():
    expected = {"batch_size": 12, "min_lr": 0.5, "tie_weights": False}
    for arguments in (
        ["--batch-size", "12", "--min-lr", "0.5", "--no-tie-weights"],
        ["--batch_size", "12", "--min_lr", "0.5", "--no_tie_weights"],
        ["--batch_size=12", "--min_lr=0.5", "--no-tie_weights"],
        ["--batch-size=12", "--min-lr=0.5", "--no_tie-weights"],
    ):
        assert parse(TrainSettings, *arguments) == expected


def test_the_spellings_of_nanogpt():
    typed = (
        "--lr_decay_iters=7 "
        "--eval_interval=20 --eval_iters=3 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
        "--n_embd=128 --max_iters=5 --learning_rate=1e-3 --min_lr=1e-4 --warmup_iters=2 --beta1=0.8 --beta2=0.99 "
        "--weight_decay=0.2 --grad_clip=0.5 --gradient_accumulation_steps=2 --dropout=0.1 --out_dir=a"
    )
    assert parse(TrainSettings, *typed.split()) == {
        "decay_steps": 7,
        "eval_every": 20, "eval_batches": 3, "log_every": 1, "context": 64, "batch_size": 12, "n_layer": 4, "n_head": 4,
        "n_embd": 128, "max_steps": 5, "lr": 1e-3, "min_lr": 1e-4, "warmup": 2, "beta1": 0.8, "beta2": 0.99,
        "weight_decay": 0.2, "grad_clip": 0.5, "grad_accum": 2, "dropout": 0.1, "out": "a",
    }  # fmt: skip
    typed = "--start=A --num_samples=2 --max_new_tokens=9 --top_k=5"
    assert parse(SampleSettings, *typed.split()) == {
        "prompt": "A", "num_samples": 2, "max_new_tokens": 9, "top_k": 5,
    }  # fmt: skip


PROMPTS = ["a_b", "--a_b", "-a", "--a_b=c_d", "--seed_", "__seed", "--top_k", "--top_k=1_0", "=", "a b_c", "", "%(x)s"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_arrives_as_it_was_typed(prompt):
    assert parse(SampleSettings, f"--prompt={prompt}") == {"prompt": prompt}
    if not prompt.startswith("-"):
        assert parse(SampleSettings, "--prompt", prompt) == {"prompt": prompt}
    assert parse(SampleSettings, "--prompt", f"--a_b {prompt}") == {"prompt": f"--a_b {prompt}"}  # it has a space in it


def test_a_text_whose_name_begins_like_a_flag(folder):
    refused("train", "--", "--my_text.txt", cwd=folder, words=["there is no file or folder --my_text.txt"])
    refused("train", "--lr=1", "--", "a_b", "--lr_", cwd=folder, words=["there is no file or folder a_b"])


@pytest.mark.parametrize("name", ["stop", "bad-words", "regex", "choices"])
def test_a_text_that_is_not_utf_8(tmp_path, name):
    """No text of a model has it, so it would be looked for in vain."""
    words = [f"argument --{name}: 'caf\\udce9' is not UTF-8"]
    refused("sample", f"--{name}", "caf\udce9", cwd=tmp_path, words=words)


def test_a_name_that_is_not_utf_8(tmp_path):
    refused("train", "caf\udce9.txt", cwd=tmp_path, words=["the name 'caf\\udce9.txt' is not UTF-8"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are UTF-8 in any locale")
def test_a_name_in_a_locale_of_ascii(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["can't be read in this locale: set PYTHONUTF8=1"]
    refused("train", "café.txt", cwd=tmp_path, words=words, run=process, env={**os.environ, **locale})


# Help


@pytest.mark.parametrize(("name", "settings"), [("train", TrainSettings), ("sample", SampleSettings)])
def test_help(python, name, settings):
    ended, imported = in_a_fresh_python(python, name, "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert not imported
    assert f"python -m npgpt.{name}" in ended.out
    for field, f in settings.__dataclass_fields__.items():
        if field != "texts":
            for spelling in (field, *f.metadata["aliases"]):
                assert f"--{spelling.replace('_', '-')} " in ended.out
    assert max(map(len, ended.out.splitlines())) < 80


def test_help_of_train_has_what_is_not_a_setting(python):
    help, _ = in_a_fresh_python(python, "train", "-h")
    assert "--resume [RUN]" in help.out
    assert "[TEXT ...]" in help.out


def test_python_m_npgpt_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "npgpt"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = re.findall(r"^  python -m npgpt\.(\w+)", done.stdout, re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| command |") : readme.index("`--help` lists the flags")]
    assert set(named) == set(re.findall(r"python -m npgpt\.(\w+)", table))
    assert all((ROOT / "npgpt" / f"{name}.py").exists() for name in named)
    assert max(map(len, done.stdout.splitlines())) < 120


@pytest.mark.parametrize(
    ("words", "advice"),
    [(["train", "text.txt"], "python -m npgpt.train"), (["nothing"], "python -m npgpt lists the commands")],
)
def test_a_command_without_its_dot(words, advice):
    done = subprocess.run([sys.executable, "-m", "npgpt", *words], capture_output=True, text=True, cwd=ROOT)
    error = f"error: a command is typed with a dot: {advice}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
