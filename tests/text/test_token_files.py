"""Token files: those of nanoGPT, npgpt.prepare and llm.c, and what is refused."""

import hashlib
import os
import pickle
import re

import numpy as np
import pytest
from helpers.corpora import assert_refused, write, write_tokens

from npgpt.checkpoints.shared.atomic import write_json
from npgpt.errors import CheckpointError, DataError
from npgpt.text import token_files
from npgpt.text.corpus import iter_text, read_corpus, tokenizer_for, train_val_split
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, make_tokenizer

BYTE = ByteTokenizer()
GPT2 = GPT2Tokenizer()


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 9, 2**22])
def test_a_token_file_is_mapped_with_its_documents(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(token_files, "TOKEN_CHUNK", chunk)
    end = GPT2.end_of_text
    path = write_tokens(tmp_path / "a.bin", [5, 6, end, 7, end, end, 8, 50255, end])
    corpus = read_corpus(path, GPT2)
    assert corpus.tokens.tolist() == [5, 6, end, 7, end, end, 8, 50255, end]
    assert corpus.documents.tolist() == [0, 3, 5, 6]
    assert (corpus.characters, corpus.validation) == (None, None)
    assert corpus.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not corpus.tokens.flags.writeable


def test_a_folder_of_token_files_brings_its_validation_part(tmp_path):
    write_tokens(tmp_path / "train.bin", [1, 2, 3])
    write_tokens(tmp_path / "val.bin", [4, 5])
    write(tmp_path / "input.txt", "nanoGPT keeps the text there too")
    corpus = read_corpus([tmp_path], GPT2)
    for by in ("tokens", "documents"):
        train, validation = train_val_split(corpus, 0.5, by)
        assert (train.tolist(), validation.tolist()) == ([1, 2, 3], [4, 5])
    assert train_val_split(corpus, 0)[1] is None
    changed = write_tokens(tmp_path / "val.bin", [4, 6])
    assert read_corpus(changed.parent, GPT2).fingerprint != corpus.fingerprint


def llmc_file(path, ids, magic=20240520, version=1, count=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    return write(path, header.tobytes() + np.array(ids, "<u2").tobytes())


def test_token_files_of_llmc(tmp_path):
    end = GPT2.end_of_text
    path = llmc_file(tmp_path / "tiny_train.bin", [end, 5, 6, end, 7])
    corpus = read_corpus(path, GPT2)
    assert corpus.tokens.tolist() == [end, 5, 6, end, 7]
    assert corpus.documents.tolist() == [0, 1, 4]
    llmc_file(tmp_path / "tiny_val.bin", [8, 9])
    both = read_corpus(tmp_path, GPT2)
    assert (both.tokens.tolist(), both.validation.tolist()) == ([end, 5, 6, end, 7], [8, 9])
    assert both.fingerprint != corpus.fingerprint
    llmc_file(tmp_path / "more_train.bin", [1])
    assert_refused(tmp_path, GPT2, "several token files", "more_train.bin", "tiny_train.bin")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 7}, ["version 7 is not 1"]),
        ({"count": 4}, ["1,030 bytes", "1,032 for the 4 tokens"]),
        ({"count": -1}, ["1,030 bytes", "-1 tokens"]),
        ({"magic": 20240801, "version": 7}, ["Llama 3"]),
        ({"magic": 20240522}, ["was not made with the gpt2 tokenizer, or has a header"]),  # HellaSwag's questions
    ],
)
def test_wrong_headers_of_llmc_are_refused(tmp_path, changes, words):
    assert_refused(llmc_file(tmp_path / "a.bin", [1, 2, 3], **changes), GPT2, tmp_path / "a.bin", *words)


def test_a_tokenizer_beside_tokens_is_theirs(tmp_path):
    for name in ("train.bin", "val.bin"):
        write_tokens(tmp_path / name, [97, 98, 257])
    ours = make_tokenizer("bpe:258", ["abab"])
    write_json(tmp_path / "npgpt_tokenizer.json", ours.to_dict())
    for paths in (tmp_path, tmp_path / "val.bin"):
        found = tokenizer_for(None, paths)
        assert found.to_dict() == ours.to_dict() == tokenizer_for("bpe:258", paths).to_dict()
        assert len(read_corpus(paths, found).tokens) == 3
        assert_refused(paths, BYTE, "made with another tokenizer than the model's", "npgpt_tokenizer.json")
        for other in ("gpt2", "bpe:300"):
            with pytest.raises(DataError, match=f"leave out --tokenizer {other}"):
                tokenizer_for(other, paths)
    write(tmp_path / "npgpt_tokenizer.json", "{}")
    assert_refused(tmp_path, BYTE, "npgpt_tokenizer.json")


def test_characters_of_nanogpts_meta_pkl(tmp_path):
    """data/shakespeare_char, as its prepare.py writes it: ids of characters, which GPT-2's would not refuse."""
    characters = "\n abc"
    stoi = {character: id for id, character in enumerate(characters)}
    meta = {"vocab_size": 5, "itos": {id: c for c, id in stoi.items()}, "stoi": stoi}
    write(tmp_path / "meta.pkl", pickle.dumps(meta))
    for name in ("train.bin", "val.bin"):
        write_tokens(tmp_path / name, [2, 3, 1, 4])
    for paths in (tmp_path, tmp_path / "train.bin"):
        found = tokenizer_for(None, paths)
        assert found.to_dict() == CharTokenizer(characters, has_end_of_text=False).to_dict()
        corpus = read_corpus(paths, found)
        assert (found.decode(corpus.tokens), corpus.documents.tolist()) == ("ab c", [0])
        assert tokenizer_for("char", paths).to_dict() == found.to_dict()
        assert_refused(paths, GPT2, "made with another tokenizer than the model's", tmp_path / "meta.pkl")
        with pytest.raises(DataError, match="made with the char tokenizer of 5 ids: leave out --tokenizer gpt2"):
            tokenizer_for("gpt2", paths)
    write(tmp_path / "meta.pkl", pickle.dumps({"vocab_size": 5}))
    with pytest.raises(CheckpointError, match=r"meta\.pkl: expected vocab_size, itos"):
        tokenizer_for(None, tmp_path)
    write_json(tmp_path / "npgpt_tokenizer.json", BYTE.to_dict())  # npgpt.prepare wrote here later
    assert tokenizer_for(None, tmp_path).to_dict() == BYTE.to_dict()


def test_tokens_of_32_bits_are_mapped(tmp_path):
    characters = "".join(chr(code) for code in range(1, 70_000) if not 0xD800 <= code < 0xE000)
    tokenizer = CharTokenizer(characters)
    path = write(tmp_path / "a.bin", np.array([3, 66_000, 1], "<u4").tobytes())
    assert read_corpus(path, tokenizer).tokens.tolist() == [3, 66_000, 1]
    assert_refused(write(tmp_path / "b.bin", b"123456"), tokenizer, "a token has four", "cut off")


def test_wrong_token_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "TOKEN_CHUNK", 2)
    cases = {
        "empty.bin": (b"", ["is empty"]),
        "odd.bin": (b"\1\0\2", ["3 bytes", "odd"]),
        "other.bin": (np.array([1, 2, 3, 50257], "<u2").tobytes(), ["gpt2", "token 3 is 50257", "50256"]),
    }
    for name, (content, words) in cases.items():
        path = write(tmp_path / name, content)
        assert_refused([path], GPT2, path, *words)


def test_token_files_and_text_together_are_refused(tmp_path):
    text = write(tmp_path / "a.txt", "text")
    one, two = write_tokens(tmp_path / "one.bin", [1]), write_tokens(tmp_path / "two.bin", [1])
    folder = write_tokens(tmp_path / "both" / "train.bin", [1]).parent
    write_tokens(folder / "val.bin", [1])
    for paths in ([one, text], [text, one], [one, two], [folder, text], [folder, one]):
        assert_refused(paths, GPT2, "token files can't be read together", paths[0], paths[1])
    for paths in ([one], folder):
        with pytest.raises(DataError, match="tokens, not text"):
            make_tokenizer("char", iter_text(paths))


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(token_files.Path, "is_file", refuse)
    with pytest.raises(DataError, match=f"can't read {re.escape(str(tmp_path))}: Permission denied"):
        token_files.find_token_files([tmp_path])


def test_a_file_that_is_written_to_is_told_from_one_that_is_replaced_or_gone(tmp_path):
    path = tmp_path / "a.bin"
    write_tokens(path, [1, 2, 3])
    stamps = read_corpus(path, ByteTokenizer()).stamps
    token_files.check_unchanged(stamps)
    write_tokens(tmp_path / "b.bin", [4, 5, 6])
    os.replace(tmp_path / "b.bin", path)  # what was mapped is still there
    token_files.check_unchanged(stamps)
    stamps = read_corpus(path, ByteTokenizer()).stamps
    with open(path, "r+b") as file:
        file.truncate(2)
    with pytest.raises(DataError, match=r"a\.bin was written to while"):
        token_files.check_unchanged(stamps)
    path.unlink()
    token_files.check_unchanged(stamps)
