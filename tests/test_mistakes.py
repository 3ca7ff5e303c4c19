"""Every mistake we can think of in what the flags name: texts, folders, models, runs, prompts.

The kinds of mistakes are tried in processes of their own at the end.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import TEXT
from helpers.commands import QUICK, assert_refused, command, process, refused, train

from npgpt.checkpoints import runs
from npgpt.config import GPTConfig
from npgpt.gpt import GPT
from npgpt.training import begin


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
        (["no texts"], "no texts has no .txt or .jsonl file in it"),
        (["text.txt", "empty.txt"], "empty.txt is empty"),
        (["odd.bin"], "an odd number"),
        (["beyond.bin"], "its token 0 is 65535"),
        (["good.bin", "text.txt"], "can't be read together"),
        (["good.bin", "--tokenizer", "char"], "it has no characters to make a tokenizer from"),
    ]:
        refused("train", *QUICK, *typed, cwd=folder, words=[words])


def test_a_link_to_itself(folder):
    (folder / "loop").symlink_to("loop")
    assert_refused(command("train", "loop", *QUICK, cwd=folder), "can't read loop: Too many levels of symbolic links")
    assert sorted(os.listdir(folder)) == ["loop", "text.txt"]


@pytest.mark.parametrize("threads", ["0", "-3", " 00 ", "none", "1025", "100000"])
def test_a_number_of_threads_that_numba_refuses(folder, threads, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    for name in ("train", "sample", "info", "convert", "gradcheck", "evaluate"):
        refused(name, cwd=folder, words=[f"NUMBA_NUM_THREADS must be from 1 to 1,024, not {threads!r}"], run=process)


def test_a_threading_layer_that_numba_does_not_know(folder, monkeypatch):
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "threads")
    refused("train", cwd=folder, words=["NUMBA_THREADING_LAYER must be one of default, ", "not 'threads'"])


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
        ("full", "full is there already: name a new folder\n"),
        (".", "is there already"),
        ("x" * 300, "File name too long"),
    ]:
        refused("train", "text.txt", *QUICK, "--out", out, cwd=folder, words=[words])
    (folder / "runs").touch()
    refused("train", "text.txt", *QUICK, cwd=folder, words=["a folder can't be made there"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_folder_that_is_not_ours(folder):
    (folder / "theirs").mkdir(mode=0o500)
    refused(
        "train",
        "text.txt",
        *QUICK,
        "--out",
        "theirs/run",
        cwd=folder,
        words=["a folder can't be made there"],
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody may write to")
def test_an_out_folder_that_turns_out_not_to_be_ours(folder):
    refused("train", "text.txt", *QUICK, "--out", "/proc/npgpt", cwd=folder, words=["a folder can't be made there"])


def test_a_model_that_does_not_fit_in_memory(folder):
    """In a process of its own: its C library keeps the addresses of 16 GB, and can't fork then."""
    refused(
        *("train", "text.txt", "--tokenizer", "byte", "--n-head", 1, "--n-embd", 2**24, "--n-layer", 1),
        cwd=folder,
        words=["not enough memory", "Unable to allocate"],
        run=process,
    )


def test_what_is_not_a_checkpoint(finished):
    """One of each kind; the files that are none are in tests/checkpoints."""
    run = finished / "runs" / "text"
    shutil.copytree(run, finished / "damaged", ignore=shutil.ignore_patterns("step-*", "best*"))
    (finished / "damaged" / "last.safetensors").write_bytes((run / "last.safetensors").read_bytes()[:-4])
    shutil.copytree(run, finished / "unsaved", ignore=shutil.ignore_patterns("*.safetensors"))
    for name, words in [
        ("nothing", "nothing: there is no such file or folder"),
        ("gpt2", "HF_HUB_OFFLINE is set: unset it to download the model"),
        ("text.txt", "text.txt: "),
        ("runs", "no config.json in it"),
        ("damaged", "it is cut off"),
        ("unsaved", "the run has not saved anything yet"),
    ]:
        refused("sample", "--model", name, cwd=finished, words=[words])
        refused("train", "text.txt", "--init-from", name, cwd=finished, words=[words])


def test_init_from_what_does_not_fit(finished):
    for typed, words in [
        (["--context", 9], "--context 9 is beyond runs/text's 8"),
        (["--n-layer", 2, "--no-bias"], "leave out --n-layer, --bias"),
        (["--position", "rotary"], "leave out --position"),
    ]:
        refused("train", "text.txt", "--init-from", "runs/text", *typed, cwd=finished, words=[words])


def test_a_model_without_a_tokenizer(folder):
    config = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8)
    runs.save_weights(folder / "weights.safetensors", GPT(config).state_dict(), config)
    refused("sample", "--model", "weights.safetensors", cwd=folder, words=["no tokenizer is known"])
    refused("train", "text.txt", "--init-from", "weights.safetensors", cwd=folder, words=["no tokenizer is known"])


def test_what_can_not_be_resumed(finished):
    work = finished
    (work / "no-run").mkdir()
    (work / "hugging-face").mkdir()
    (work / "hugging-face" / "config.json").write_text('{"model_type": "gpt2"}')
    config = json.loads((work / "runs" / "text" / "config.json").read_text())
    for name, change in [
        ("unknown", {"training": {**config["training"], "colour": "red"}}),
        ("strange", {"plan": {**config["plan"], "max_steps": 0}}),
        ("planless", {"plan": {}}),
    ]:
        shutil.copytree(work / "runs" / "text", work / name)
        (work / name / "config.json").write_text(json.dumps({**config, **change}))
    for typed, words in [
        (["--resume", "nothing"], "nothing/config.json: can't be read"),
        (["--resume", "text.txt"], "text.txt/config.json: can't be read"),
        (["--resume", "no-run"], "no-run/config.json: can't be read"),
        (["--resume", "hugging-face"], "the folder is not a run of npgpt"),
        (["--resume"], "runs/text has done 2 of 2 steps: it is finished"),
        (["--resume", "planless"], "planless was begun by an npgpt that stored no plan with it"),
        (["--resume", "strange"], "strange/config.json: setting max_steps can't be 0"),
        (["--resume", "runs/text"], "say how far: --resume runs/text --max-steps 4"),
        (["--resume", "runs/text", "--max-steps", 1], "runs/text has done 2 steps already: give more --max-steps"),
        (["--resume", "runs/text", "--lr", 1, "--n_layer=2"], "leave out --lr, --n-layer"),
        (["--resume", "runs/text", "--max-steps", 4, "--epochs", 1], "give one"),
        (["--resume", "runs/text", "--max-steps", 4, "--out", "x"], "leave out --out"),
        (["--resume", "runs/text", "text.txt"], "leave out the text"),
        (["text.txt", "--resume"], "leave out the text, or name the run after --resume"),
        (["--resume", "unknown"], "unknown/config.json: unknown setting of a run: 'colour'"),
    ]:
        refused("train", *typed, cwd=work, words=[words])
    shutil.rmtree(work / "runs")
    refused("train", "--resume", cwd=work, words=["there is no run in runs/"])
    refused("sample", cwd=work, words=["there is no run in runs/"])


def test_a_run_whose_text_has_changed(finished, monkeypatch):
    def forbidden(path, *others, stat=os.stat, **settings):
        if path == "text.txt":
            raise PermissionError(13, "Permission denied")
        return stat(path, *others, **settings)

    for change in (TEXT.upper(), TEXT + "!", TEXT[: len(TEXT) // 2]):
        (finished / "text.txt").write_text(change)
        refused(
            *("train", "--resume", "--max-steps", 4),
            cwd=finished,
            words=["text.txt: the text is not the one that this run began with", "--init-from runs/text"],
        )
    (finished / "text.txt").unlink()
    words = ["the run's text text.txt isn't there: resume the run in the folder where it began, or put its text here"]
    refused("train", "--resume", "--max-steps", 4, cwd=finished, words=words)
    monkeypatch.setattr(begin.os, "stat", forbidden)
    refused(
        "train", "--resume", "--max-steps", 4, cwd=finished, words=["text text.txt can't be read: Permission denied"]
    )


def test_a_run_whose_text_was_named_from_the_root(folder):
    train(folder, folder / "text.txt", *QUICK)
    (folder / "text.txt").unlink()
    words = [f"the run's text {folder / 'text.txt'} isn't there\n"]
    refused("train", "--resume", "--max-steps", 4, cwd=folder, words=words)


def test_prompts_that_can_not_be(finished):
    (finished / "latin1.txt").write_bytes("café".encode("latin-1"))
    for typed, words in [
        (["--prompt-file", "nothing"], "nothing: can't be read: No such file"),
        (["--prompt-file", "/dev/zero"], "/dev/zero: a prompt can't have more than 16,777,216 bytes"),
        (["--prompt-file", "runs"], "runs: can't be read"),
        (["--prompt-file", "latin1.txt"], "latin1.txt: not UTF-8 text at byte 3"),
        (["--prompt", "\udce9"], "half of a surrogate pair"),  # what Python makes of an argument that isn't UTF-8
    ]:
        refused("sample", *typed, cwd=finished, words=[words])
    refused("sample", "--prompt-file", "-", stdin=b"caf\xe9", cwd=finished, words=["-: not UTF-8 text at byte 3"])


@pytest.mark.parametrize("flag", ["--prompt", "--start"])
def test_a_prompt_of_nanogpts_form_that_names_a_file(finished, flag):
    """Of no file it is a text as any other."""
    refused("sample", flag, "FILE:text.txt", cwd=finished, words=["text.txt is a file: give --prompt-file text.txt"])
    for typed in (("--prompt-file", "text.txt"), (flag, "FILE:none.txt")):
        assert command("sample", *typed, "--max-new-tokens", 1, cwd=finished).code == 0


def test_a_character_that_a_character_tokenizer_has_not_seen(folder):
    ended = command("train", "text.txt", *QUICK, "--tokenizer", "char", cwd=folder)
    assert ended.code == 0
    for name, flag in (("sample", "--prompt"), ("train", "--sample-prompt")):
        typed = ["text.txt", *QUICK, "--tokenizer", "char"] if name == "train" else []
        refused(name, *typed, flag, "jurÿ", cwd=folder, words=["the character 'ÿ' (U+00FF) at offset 3"])


@pytest.mark.parametrize(
    ("name", "typed", "words"),
    [
        ("train", ["text.txt", "--lr", "-1"], "must be a number above 0, not -1"),
        ("sample", ["--top_k=-1"], "must be a whole number from 0 to 2,147,483,647, not -1"),
        ("train", ["nothing.txt", *QUICK], "there is no file or folder nothing.txt"),
        ("train", ["text.txt", *QUICK, "--out", "text.txt"], "text.txt is there already"),
        ("train", ["--resume", "nothing"], "nothing/config.json: can't be read"),
        ("sample", ["--model", "text.txt"], "not a file format that npgpt reads"),
    ],
)
def test_in_a_process_of_its_own(folder, name, typed, words):
    refused(name, *typed, cwd=folder, words=[words], run=process)
