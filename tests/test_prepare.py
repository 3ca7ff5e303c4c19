"""npgpt.prepare: the tokens of one process that encodes the whole, in files that training takes; or nothing at all."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers.commands import TINY, command, listing, refused, train

from npgpt.checkpoints.shared.tokenizers import read_tokenizer
from npgpt.text import files
from npgpt.text.corpus import read_corpus, tokenizer_for
from npgpt.text.tokenizers import GPT2Tokenizer

VERDICT = (ROOT / "data" / "the-verdict.txt").read_text(encoding="utf-8")


def prepare(folder, *arguments):
    ended = command("prepare", *arguments, cwd=folder)
    assert ended.code == 0, ended
    return ended


def tokens_in(folder, dtype="<u2"):
    return [np.fromfile(folder / name, dtype) for name in ("train.bin", "val.bin")]


def test_tokens_are_those_of_encoding_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 1000)  # as if the text were large
    monkeypatch.setattr("npgpt.prepare.COPIED", 100)
    text = VERDICT + " naïve 三十 don't\n\n\n   x" * 50
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    ended = prepare(tmp_path, "a.txt", "--out", "p", "--val-fraction", 0.25)
    expected = GPT2Tokenizer().encode(text)
    train_part, val_part = tokens_in(tmp_path / "p")
    assert np.concatenate([train_part, val_part]).tolist() == expected.tolist()
    assert len(val_part) == round(len(expected) / 4)
    assert f"{len(text):,} characters, {len(expected):,} tokens ({len(val_part):,} in val.bin), uint16" in ended.err
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["npgpt_tokenizer.json", "train.bin", "val.bin"]


def test_documents_are_kept_whole_if_asked_and_conversations_always(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(f"document {i} " * (i + 1))
    prepare(tmp_path, *(f"{i}.txt" for i in range(5)), "--out", "p", "--tokenizer", "byte", "--split-by", "documents")
    train_part, val_part = tokens_in(tmp_path / "p")
    assert train_part[-1] == 256
    assert bytes(val_part.astype(np.uint8)).decode() == "document 4 " * 5
    line = json.dumps({"user": "a", "assistant": "b"})
    (tmp_path / "c.jsonl").write_text(f"{line}\n" * 12)
    ended = prepare(tmp_path, "c.jsonl", "--out", "q", "--tokenizer", "byte", "--val-fraction", 0.2)
    assert bytes(tokens_in(tmp_path / "q")[1][:8].astype(np.uint8)) == b"Human: a"
    assert "warning" not in ended.err


def test_a_run_is_trained_on_prepared_tokens_and_resumed_and_exported(tmp_path):
    (tmp_path / "a.txt").write_text(VERDICT, encoding="utf-8")
    prepare(tmp_path, "a.txt", "--out", "p", "--tokenizer", "bpe:300")
    tokenizer = read_tokenizer(tmp_path / "p" / "npgpt_tokenizer.json")
    assert tokenizer.to_dict() == tokenizer_for("bpe:300", tmp_path / "a.txt").to_dict()
    tiny = [*TINY[: TINY.index("--tokenizer")], "--sample-every", 0]
    run, ended = train(tmp_path, "p", *tiny, "--max-steps", 2)
    assert read_tokenizer(run / "tokenizer.json").to_dict() == tokenizer.to_dict()
    assert "tokens (" in ended.err
    assert command("train", "--resume", run, "--max-steps", 3, cwd=tmp_path).code == 0
    assert command("convert", run, "hf", cwd=tmp_path).code == 0
    assert (tmp_path / "hf" / "tokenizer.tiktoken").stat().st_size > 0
    assert read_tokenizer(tmp_path / "hf" / "npgpt_tokenizer.json").to_dict() == tokenizer.to_dict()
    direct, _ = train(tmp_path, "a.txt", *tiny, "--max-steps", 1, "--tokenizer", "bpe:300", "--out", "direct")
    assert read_tokenizer(direct / "tokenizer.json").to_dict() == tokenizer.to_dict()
    both = read_corpus(tmp_path / "p", tokenizer)
    assert np.concatenate([both.tokens, both.validation]).tolist() == tokenizer.encode(VERDICT).tolist()


def test_a_large_vocabulary_is_written_in_32_bits_and_said(tmp_path):
    characters = "".join(chr(code) for code in range(1, 70_000) if not 0xD800 <= code < 0xE000)
    (tmp_path / "a.txt").write_bytes(characters.encode())
    ended = prepare(tmp_path, "a.txt", "--out", "p", "--tokenizer", "char")
    assert "uint32" in ended.err
    assert "nanoGPT reads uint16" in ended.err
    assert np.concatenate(tokens_in(tmp_path / "p", "<u4")).tolist() == list(range(len(characters)))
    assert len(read_corpus(tmp_path / "p", tokenizer_for(None, tmp_path / "p")).validation) == 6795


def test_a_text_too_small_for_the_tokenizer_that_was_asked_for(folder):
    """It is said where the tokenizer is made, be it here or in training; one of as many ids as asked for is no news."""
    typed = ("text.txt", "--tokenizer", "bpe:400")
    size = tokenizer_for("bpe:400", folder / "text.txt").vocab_size
    warning = f"warning: the tokenizer has {size} ids of 400: no other pair of tokens is there twice\n"
    assert size < 400
    assert warning in prepare(folder, *typed, "--out", "p").err
    assert warning in train(folder, *typed, *TINY[: TINY.index("--tokenizer")], "--max-steps", 1)[1].err
    assert "warning" not in prepare(folder, *typed[:2], f"bpe:{size}", "--out", "q").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["text.txt"], ["--out FOLDER"]),
        (["text.txt", "--out", "there"], ["there is there already"]),
        (["text.txt", "--out", "no/p"], ["no/p", "can't be written"]),
        (["gone.txt", "--out", "p"], ["no file or folder gone.txt"]),
        (["a.bin", "--out", "p"], ["a.bin has tokens already", "npgpt.train"]),
        (["bad.txt", "--out", "p"], ["bad.txt is not UTF-8"]),
        (["text.txt", "--out", "p", "--val-fraction", "0"], ["--val-fraction"]),
        (["text.txt", "--out", "p", "--val-fraction", "0.001"], ["tokens are too few"]),
        (["text.txt", "--out", "p", "--tokenizer", "bpe:9"], ["N at least 257"]),
        (["text.txt", "--out", "p", "--split-by", "documents"], ["one document can't be split"]),
        ([], ["TEXT"]),
    ],
)
def test_mistakes_leave_nothing(folder, arguments, words):
    (folder / "there").mkdir()
    (folder / "a.bin").write_bytes(b"\0\0")
    (folder / "bad.txt").write_bytes(b"all is well \xff")
    refused("prepare", *arguments, cwd=folder, words=words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path, number):
    """The text comes through a pipe that never ends, so the signal comes in the middle."""
    pipe = subprocess.Popen(["yes", "some words and more"], stdout=subprocess.PIPE)
    typed = [sys.executable, "-m", "npgpt.prepare", "/dev/stdin", "--out", "p", "--tokenizer", "byte"]
    with subprocess.Popen(typed, cwd=tmp_path, stdin=pipe.stdout, stderr=subprocess.PIPE) as preparing:
        try:
            deadline = time.monotonic() + 60
            while not any(path.stat().st_size for path in tmp_path.glob(".p.*/train.bin")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            preparing.send_signal(number)
            error = preparing.stderr.read()
        finally:
            pipe.kill()
            pipe.wait()
    assert (preparing.returncode, error) == (128 + number, b"stopped\n")
    assert listing(tmp_path) == {}
