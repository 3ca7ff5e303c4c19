"""What both commands do with what is typed: flags and their spellings, help, and every mistake we can think of.

A mistake ends with exit code 2 and one to three lines on stderr, without a traceback, and nothing has been written.
``command`` and ``process`` run the commands, here and in other tests.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from npgpt import commandline
from npgpt.checkpoints import runs
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.commandline import Parser
from npgpt.config import GPTConfig
from npgpt.errors import UserError
from npgpt.gpt import GPT
from npgpt.sample import SampleSettings
from npgpt.settings import TrainSettings

TINY = ("--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--context", 8, "--batch-size", 2, "--tokenizer", "byte")
QUICK = (*TINY, "--max-steps", 2, "--sample-every", 0)
TEXT = "The jury sat four days over a drowned pig, and nobody ate. " * 8


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def command(name, *arguments, cwd, stdin=b"") -> Ended:
    """python -m npgpt.NAME ARGUMENTS, in this process, which has NumPy and the kernels loaded already."""
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin)),
        "stdout": io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""),
        "stderr": io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""),
        "argv": [name, *map(str, arguments)],
    }
    main = importlib.import_module(f"npgpt.{name}").main
    with contextlib.chdir(cwd), mock.patch.multiple(sys, **streams), pytest.raises(SystemExit) as end:
        commandline.run(main)
    out, err = (streams[s].flush() or streams[s].buffer.getvalue().decode() for s in ("stdout", "stderr"))
    return Ended(end.value.code, out, err)


def process(name, *arguments, cwd, **options) -> Ended:
    """The same in a process of its own."""
    typed = [sys.executable, "-m", f"npgpt.{name}", *map(str, arguments)]
    ended = subprocess.run(typed, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=300, **options)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def listing(folder) -> dict:
    """All that is below a folder, with what would change if it were written to."""
    return {
        str(path.relative_to(folder)): (path.is_dir() or (path.stat().st_mtime_ns, path.read_bytes()))
        for path in Path(folder).rglob("*")
    }


def assert_refused(ended: Ended, *words):
    assert ended.code == 2, ended
    assert ended.out == ""
    assert 1 <= ended.err.count("\n") <= 3, ended.err
    assert ended.err.endswith("\n")
    assert "Traceback" not in ended.err
    for word in words:
        assert str(word) in ended.err


def refused(name, *arguments, cwd, words=(), run=command, **options) -> None:
    """The command must end as a mistake, with these words in its message, and have written nothing."""
    before = listing(cwd)
    assert_refused(run(name, *arguments, cwd=cwd, **options), *words)
    assert listing(cwd) == before


def parse(settings, *arguments) -> dict:
    parser = Parser("train", "")
    parser.add_flags(settings)
    return vars(parser.parse_args(arguments))


@pytest.fixture
def folder(tmp_path):
    """A working folder with text.txt."""
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture(scope="module")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text(TEXT)
    ended = command("train", "text.txt", *QUICK, cwd=folder)
    assert ended.code == 0, ended
    return folder


@pytest.fixture
def finished(_finished, tmp_path):
    """A working folder with text.txt and runs/text, a run of two steps that is finished."""
    shutil.copytree(_finished, tmp_path / "work")
    return tmp_path / "work"


# Flags: what each takes

WHOLE_FROM_1 = [
    "context", "stride", "batch-size", "n-layer", "n-head", "n-embd", "n-inner", "max-steps", "patience", "grad-accum",
    "log-every", "eval-every", "eval-batches", "sample-tokens", "threads",
]  # fmt: skip
WHOLE_FROM_0 = ["warmup", "sample-every", "seed"]
ABOVE_0 = ["epochs", "lr"]
FROM_0 = ["min-delta", "min-lr", "grad-clip", "weight-decay"]
FROM_0_BELOW_1 = ["val-fraction", "dropout", "beta1", "beta2"]
WORDS = {
    "tokenizer": ["gpt2", "char", "byte"],
    "split-by": ["tokens", "documents"],
    "preset": ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "nano", "mini", "small"],
    "position": ["learned", "sinusoidal", "rotary"],
    "activation": ["gelu_new", "gelu", "relu"],
    "matmul-precision": ["highest", "high", "medium"],
}
SWITCHES = ["bias", "qkv-bias", "tie-weights", "recompute"]
NAMES = ["out", "init-from"]
TEXTS = ["sample-prompt"]

NOT_NUMBERS = ["", " ", "x", "nan", "inf", "-inf", "-1", "-0.5", "0x10", "1,5", "1e999", "9" * 5000, "True"]
BAD = (
    [("train", f, v) for f in WHOLE_FROM_1 for v in [*NOT_NUMBERS, "0", "1.5", "1e3", "2147483648"]]
    + [("train", f, v) for f in WHOLE_FROM_0 for v in [*NOT_NUMBERS, "1.5", "1e3", str(2**63)]]
    + [("train", f, v) for f in ABOVE_0 for v in [*NOT_NUMBERS, "0", "0.0"]]
    + [("train", f, v) for f in FROM_0 for v in NOT_NUMBERS]
    + [("train", f, v) for f in FROM_0_BELOW_1 for v in [*NOT_NUMBERS, "1", "1.5"]]
    + [("train", f, v) for f in WORDS for v in ["", "x", "0", "GPT2"]]
    + [("train", f, v) for f in SWITCHES for v in ["", "x", "False", "0"]]  # they take no value
    + [("train", f, "") for f in [*NAMES, "resume"]]
    + [("sample", f, v) for f in ("num-samples", "max-new-tokens", "top-k", "threads") for v in [*NOT_NUMBERS, "0"]]
    + [("sample", "seed", v) for v in [*NOT_NUMBERS, "1.5"]]
    + [("sample", "temperature", v) for v in NOT_NUMBERS]
    + [("sample", "top-p", v) for v in [*NOT_NUMBERS, "0", "1.01"]]
    + [("sample", "checkpoint", v) for v in ("", "x", "0")]
    + [("sample", "greedy", v) for v in ("", "1")]
    + [("sample", f, "") for f in ("model", "prompt-file", "stop")]
)


def test_every_flag_with_every_bad_value(folder):
    before = listing(folder)
    for name, flag, value in BAD:
        ended = command(name, *(["text.txt"] if name == "train" else []), f"--{flag}={value}", cwd=folder)
        assert_refused(ended, f"--{flag}")
    assert listing(folder) == before


def test_no_flag_is_forgotten_above():
    def flags(settings):
        return {name.replace("_", "-") for name, f in settings.__dataclass_fields__.items() if "kind" in f.metadata}

    of_train = {*WHOLE_FROM_1, *WHOLE_FROM_0, *ABOVE_0, *FROM_0, *FROM_0_BELOW_1, *WORDS, *SWITCHES, *NAMES, *TEXTS}
    assert flags(TrainSettings) == of_train
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
    assert parse(TrainSettings, "--max-steps", str(2**31 - 1)) == {"max_steps": 2**31 - 1}
    assert parse(SampleSettings, "--temperature=0", "--top-p=1", "--seed=0") == {
        "temperature": 0,
        "top_p": 1,
        "seed": 0,
    }


def test_the_message_says_what_is_wanted(folder):
    for typed, words in [
        (["--lr", "fast"], "argument --lr/--learning-rate: 'fast' is not a number, above 0"),
        (["--dropout", "1"], "argument --dropout: 1 is not a number, at least 0 and below 1"),
        (["--context", "0"], "0 is not a whole number, at least 1 and at most 2,147,483,647"),
        (["--tokenizer", "bpe"], "argument --tokenizer: 'bpe' is none of gpt2, char, byte"),
        (["--out", ""], "argument --out: the name is empty"),
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
        (["--init-from", "x", "--tokenizer", "gpt2"], "leave out --tokenizer"),
        (["--lr", 1e-4, "--min-lr", 1e-3], "--min-lr 0.001 is above --lr 0.0001"),
        (["--val-fraction", 0, "--patience", 3], "--patience watches the validation loss"),
        (["--n-embd", 64, "--n-head", 3], "n_embd must be divisible by n_head"),
        (["--position", "rotary", "--n-embd", 6, "--n-head", 2], "n_embd / n_head must be even"),
    ]:
        refused("train", "text.txt", *typed, cwd=folder, words=[words])
    refused("sample", "--prompt", "a", "--prompt-file", "text.txt", cwd=folder, words=["give one"])


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
        "--eval_interval=20 --eval_iters=3 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
        "--n_embd=128 --max_iters=5 --learning_rate=1e-3 --min_lr=1e-4 --warmup_iters=2 --beta1=0.8 --beta2=0.99 "
        "--weight_decay=0.2 --grad_clip=0.5 --gradient_accumulation_steps=2 --dropout=0.1"
    )
    assert parse(TrainSettings, *typed.split()) == {
        "eval_every": 20, "eval_batches": 3, "log_every": 1, "context": 64, "batch_size": 12, "n_layer": 4, "n_head": 4,
        "n_embd": 128, "max_steps": 5, "lr": 1e-3, "min_lr": 1e-4, "warmup": 2, "beta1": 0.8, "beta2": 0.99,
        "weight_decay": 0.2, "grad_clip": 0.5, "grad_accum": 2, "dropout": 0.1,
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
            for spelling in (field, *f.metadata["also"]):
                assert f"--{spelling.replace('_', '-')} " in ended.out
    assert max(map(len, ended.out.splitlines())) < 80


def test_help_of_train_has_what_is_not_a_setting(python):
    help, _ = in_a_fresh_python(python, "train", "-h")
    assert "--resume [RUN]" in help.out
    assert "[TEXT ...]" in help.out


# Mistakes in what the flags name. The kinds of mistakes are tried in processes of their own at the end.


def test_what_training_can_not_read(folder):
    (folder / "empty.txt").touch()
    (folder / "binary.txt").write_bytes(b"text\0text")
    (folder / "latin1.txt").write_bytes("café".encode("latin-1") * 100)
    (folder / "no texts").mkdir()
    (folder / "odd.bin").write_bytes(b"\0" * 101)
    (folder / "beyond.bin").write_bytes(b"\xff" * 100)
    (folder / "good.bin").write_bytes(b"\1\0" * 100)
    for typed, words in [
        ([], "what should it train on?"),
        ([""], "the name is empty"),
        (["nothing.txt"], "there is no file or folder nothing.txt"),
        (["text.txt/x"], "text.txt/x"),
        (["x" * 300], "File name too long"),
        (["empty.txt"], "empty.txt is empty"),
        (["binary.txt"], "binary.txt is a binary file"),
        (["latin1.txt"], "latin1.txt is not UTF-8"),
        (["no texts"], "no texts has no .txt file in it"),
        (["text.txt", "empty.txt"], "empty.txt is empty"),
        (["odd.bin"], "an odd number"),
        (["beyond.bin"], "its token 0 is 65535"),
        (["good.bin", "text.txt"], "can't be read together"),
        (["good.bin", "--tokenizer", "char"], "there are no characters to make a tokenizer from"),
    ]:
        refused("train", *QUICK, *typed, cwd=folder, words=[words])


def test_too_little_text(folder):
    (folder / "short.txt").write_text("so short")
    (folder / "shortish.txt").write_text("long enough, but not for two")
    for typed, words in [
        (["short.txt", "--val-fraction", 0], "the training part has 8 tokens, but a context of 8 needs at least 9"),
        (["shortish.txt"], "the validation part has 3 tokens, but a context of 8 needs at least 9"),
        (["shortish.txt", "--val-fraction", 0.9], "the training part has 3 tokens"),
        (["text.txt", "--split-by", "documents"], "one document can't be split by documents"),
    ]:
        refused("train", *QUICK, *typed, cwd=folder, words=[words])


def test_an_out_folder_that_can_not_be(folder):
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    for out, words in [
        ("text.txt", "text.txt is there already"),
        ("text.txt/run", "text.txt is not a folder that you may write to"),
        ("text.txt/deeper/run", "text.txt is not a folder that you may write to"),
        ("full", "full is there already: name a new folder, or --resume full"),
        (".", "is there already"),
        ("x" * 300, "File name too long"),
    ]:
        refused("train", "text.txt", *QUICK, "--out", out, cwd=folder, words=[words])
    (folder / "runs").touch()
    refused("train", "text.txt", *QUICK, cwd=folder, words=["runs is not a folder that you may write to"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_folder_that_is_not_ours(folder):
    (folder / "theirs").mkdir(mode=0o500)
    refused("train", "text.txt", *QUICK, "--out", "theirs/run", cwd=folder, words=["theirs", "may write to"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody may write to")
def test_an_out_folder_that_turns_out_not_to_be_ours(folder):
    refused("train", "text.txt", *QUICK, "--out", "/proc/npgpt", cwd=folder, words=["a folder can't be made there"])


def test_a_model_that_does_not_fit_in_memory(folder):
    refused(
        *("train", "text.txt", "--tokenizer", "byte", "--n-head", 1, "--n-embd", 2**30, "--n-layer", 1),
        cwd=folder,
        words=["not enough memory", "Unable to allocate"],
    )


def damaged_checkpoints(run):
    """(name, words): what isn't a checkpoint, in the working folder. Some are folders, some files."""
    work = run.parent.parent
    good = (run / "last.safetensors").read_bytes()
    cut, noise, strange = work / "cut.safetensors", work / "noise.safetensors", work / "strange.safetensors"
    cut.write_bytes(good[: len(good) // 2])
    noise.write_bytes(np.random.default_rng(0).bytes(1000))
    write_safetensors(strange, {"a": np.zeros(3, np.float32)})
    yield from [
        ("nothing", "nothing: there is no such file or folder"),
        ("gpt2", "HF_HUB_OFFLINE is set: unset it to download the model"),
        ("text.txt", "text.txt: it begins as none of the formats"),
        (cut.name, "it is cut off"),
        (noise.name, "none of the formats"),
        (strange.name, "tensors only, not those of GPT-2"),
        ("runs", "no config.json in it"),
    ]
    for name, config, words in [
        ("bert", '{"model_type": "bert"}', "model_type is 'bert'"),
        ("no-json", "{", "not JSON"),
        ("no-weights", '{"model_type": "gpt2", "vocab_size": 10}', "model.safetensors"),
    ]:
        (work / name).mkdir()
        (work / name / "config.json").write_text(config)
        yield name, words
    shutil.copytree(run, work / "damaged")
    (work / "damaged" / "last.safetensors").write_bytes(good[:-4])
    yield "damaged", "it is cut off"
    shutil.copytree(run, work / "unsaved", ignore=shutil.ignore_patterns("*.safetensors"))
    yield "unsaved", "the run has not saved anything yet"
    shutil.copytree(run, work / "changed")
    config = json.loads((run / "config.json").read_text())
    config["model"]["n_layer"] = 2
    (work / "changed" / "config.json").write_text(json.dumps(config))


def test_what_is_not_a_checkpoint(finished):
    for name, words in damaged_checkpoints(finished / "runs" / "text"):
        refused("sample", "--model", name, cwd=finished, words=[words])
        refused("train", "text.txt", "--init-from", name, cwd=finished, words=[words])


def test_init_from_what_does_not_fit(finished):
    for typed, words in [
        (["--context", 9], "--context 9 is beyond the model's: runs/text has 8"),
        (["--n-layer", 2, "--no-bias"], "leave out --n-layer, --bias"),
        (["--position", "rotary"], "leave out --position"),
    ]:
        refused("train", "text.txt", "--init-from", "runs/text", *typed, cwd=finished, words=[words])


def test_a_model_without_a_tokenizer(folder):
    config = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8)
    runs.save_weights(folder / "weights.safetensors", GPT(config).state_dict(), config)
    refused("sample", "--model", "weights.safetensors", cwd=folder, words=["no tokenizer of npgpt", "vocabulary of 11"])
    refused("train", "text.txt", "--init-from", "weights.safetensors", cwd=folder, words=["vocabulary of 11"])


def test_a_model_that_has_diverged(finished):
    run = finished / "runs" / "text"
    opened = runs.read_run(run / "last.safetensors")
    diverged = {name: np.full(tensor.shape, np.nan, np.float32) for name, tensor in opened.tensors.items()}
    runs.save_weights(run / "last.safetensors", diverged, opened.config)
    ended = command("sample", "--prompt", "The", cwd=finished)
    assert ended == (
        2,
        "",
        "error: runs/text/last.safetensors: the model's results are not finite numbers: "
        "NaN or infinity in wte.weight, wpe.weight, h.0.ln_1.weight and 13 more\n",
    )


def test_what_can_not_be_resumed(finished):
    work = finished
    (work / "no-run").mkdir()
    (work / "hugging-face").mkdir()
    (work / "hugging-face" / "config.json").write_text('{"model_type": "gpt2"}')
    shutil.copytree(work / "runs" / "text", work / "strange")
    config = json.loads((work / "strange" / "config.json").read_text())
    for name, change in [("unknown", {"colour": "red"}), ("wrong", {"lr": "fast"}), ("negative", {"batch_size": -1})]:
        shutil.copytree(work / "runs" / "text", work / name)
        changed = {**config, "training": {**config["training"], **change}}
        (work / name / "config.json").write_text(json.dumps(changed))
    shutil.copytree(work / "runs" / "text", work / "best-only")
    (work / "best-only" / "last.safetensors").unlink()
    for typed, words in [
        (["--resume", "nothing"], "nothing/config.json: can't be read"),
        (["--resume", "text.txt"], "text.txt/config.json: can't be read"),
        (["--resume", "no-run"], "no-run/config.json: can't be read"),
        (["--resume", "hugging-face"], "the folder is not a run of npgpt"),
        (["--resume"], "runs/text is finished: it has done 2 steps, and was to do 2"),
        (["--resume", "runs/text"], "say how far: --resume runs/text --max-steps 4"),
        (["--resume", "runs/text", "--max-steps", 1], "it has done 2 steps, and was to do 1"),
        (["--resume", "runs/text", "--lr", 1, "--n_layer=2"], "leave out --lr, --n-layer"),
        (["--resume", "runs/text", "--max-steps", 4, "--epochs", 1], "give one"),
        (["--resume", "runs/text", "--max-steps", 4, "--out", "x"], "leave out --out"),
        (["--resume", "runs/text", "text.txt"], "leave out the text"),
        (["text.txt", "--resume"], "leave out the text, or name the run after --resume"),
        (["--resume", "unknown"], "unknown/config.json: training: unknown setting of a run: 'colour'"),
        (["--resume", "wrong"], "setting lr can't be 'fast'"),
        (["--resume", "negative"], "setting batch_size can't be -1"),
        (["--resume", "best-only", "--max-steps", 4], "training can't go on from this file"),
    ]:
        refused("train", *typed, cwd=work, words=[words])
    shutil.rmtree(work / "runs")
    refused("train", "--resume", cwd=work, words=["there is no run in runs/"])
    refused("sample", cwd=work, words=["there is no run in runs/"])


def test_a_run_whose_text_has_changed(finished):
    for change in (TEXT.upper(), TEXT + "!", TEXT[: len(TEXT) // 2]):
        (finished / "text.txt").write_text(change)
        refused(
            *("train", "--resume", "--max-steps", 4),
            cwd=finished,
            words=["text.txt: the text is not the one that this run began with", "--init-from runs/text"],
        )
    (finished / "text.txt").unlink()
    refused("train", "--resume", "--max-steps", 4, cwd=finished, words=["there is no file or folder text.txt"])


def test_prompts_that_can_not_be(finished):
    (finished / "latin1.txt").write_bytes("café".encode("latin-1"))
    for typed, words in [
        (["--prompt-file", "nothing"], "nothing: can't be read: No such file"),
        (["--prompt-file", "runs"], "runs: can't be read"),
        (["--prompt-file", "latin1.txt"], "latin1.txt: not UTF-8 text at byte 3"),
        (["--prompt", "\udce9"], "half of a surrogate pair"),  # what Python makes of an argument that isn't UTF-8
    ]:
        refused("sample", *typed, cwd=finished, words=[words])
    refused("sample", "--prompt-file", "-", stdin=b"caf\xe9", cwd=finished, words=["-: not UTF-8 text at byte 3"])


def test_a_character_that_a_character_tokenizer_has_not_seen(folder):
    ended = command("train", "text.txt", *QUICK, "--tokenizer", "char", cwd=folder)
    assert ended.code == 0
    for name, flag in (("sample", "--prompt"), ("train", "--sample-prompt")):
        typed = ["text.txt", *QUICK, "--tokenizer", "char"] if name == "train" else []
        refused(name, *typed, flag, "jurÿ", cwd=folder, words=["the character 'ÿ' (U+00FF) at offset 3"])


@pytest.mark.parametrize(
    ("name", "typed", "words"),
    [
        ("train", ["text.txt", "--lr", "-1"], "-1 is not a number"),
        ("sample", ["--top_k=0"], "0 is not a whole number"),
        ("train", ["nothing.txt", *QUICK], "there is no file or folder nothing.txt"),
        ("train", ["text.txt", *QUICK, "--out", "text.txt"], "text.txt is there already"),
        ("train", ["--resume", "nothing"], "nothing/config.json: can't be read"),
        ("sample", ["--model", "text.txt"], "none of the formats"),
    ],
)
def test_in_a_process_of_its_own(folder, name, typed, words):
    refused(name, *typed, cwd=folder, words=[words], run=process)


# How a process ends


def ends(main, **streams) -> Ended:
    """What ``run`` makes of a main that raises or returns."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for encoding in ("ascii", "utf-8"))
    with mock.patch.multiple(sys, stdout=out, stderr=err), pytest.raises(SystemExit) as end:
        commandline.run(main)
    return Ended(end.value.code, *(stream.flush() or stream.buffer.getvalue().decode() for stream in (out, err)))


def test_how_a_process_ends():
    def raises(error):
        def main():
            raise error

        return main

    assert ends(lambda: 0) == (0, "", "")
    assert ends(raises(UserError("two\nlines"))) == (2, "", "error: two\nlines\n")
    assert ends(raises(KeyboardInterrupt())) == (130, "", "stopped\n")
    assert ends(raises(OSError(28, "No space left", "x"))) == (2, "", "error: [Errno 28] No space left: 'x'\n")
    assert ends(raises(MemoryError("Unable"))) == (2, "", "error: not enough memory. Unable\n")
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        commandline.run(raises(ZeroDivisionError()))


def test_a_character_that_the_terminal_does_not_have():
    assert ends(lambda: print("naïve") or 0) == (0, "na?ve\n", "")
