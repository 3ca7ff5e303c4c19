"""From files to tokens: what is read, how it is split, and what is refused."""

import errno
import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.errors import ConfigError, DataError, UserError
from npgpt.text import corpus as corpus_module
from npgpt.text import files as text_files
from npgpt.text import token_files
from npgpt.text.corpus import Corpus, iter_text, read_corpus, tokenizer_for, train_val_split
from npgpt.text.files import find_texts
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, make_tokenizer, save_tokenizer

BYTE = ByteTokenizer()
GPT2 = GPT2Tokenizer()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_tokens(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.array(ids, "<u2").tofile(path)
    return path


def assert_refused(paths, tokenizer, *words):
    """Reading the paths raises an error of one to three lines that contain these words."""
    with pytest.raises(UserError) as error:
        read_corpus(paths, tokenizer)
    assert str(error.value).count("\n") < 3
    for word in words:
        assert str(word) in str(error.value)


# Text files


def test_a_folder_stands_for_its_txt_files(tmp_path):
    for name in ("b.txt", "a.txt", "sub/deep/c.TXT", "sub/a.txt", "d.txt/e.txt", "notes.md", ".a.txt", ".git/x.txt"):
        write(tmp_path / name, "x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_texts([tmp_path])]
    assert found == ["a.txt", "b.txt", "d.txt/e.txt", "sub/a.txt", "sub/deep/c.TXT"]
    # A named file is taken whatever it is called, and paths keep their order.
    notes, deep, a = tmp_path / "notes.md", tmp_path / "sub" / "deep", tmp_path / "a.txt"
    assert find_texts([notes, deep, a]) == [notes, deep / "c.TXT", a]
    assert find_texts(str(a)) == [a]


def test_text_is_not_changed(tmp_path):
    text = "\r\none\r\n\ttwo\u2028 three\n\n  "
    corpus = read_corpus(write(tmp_path / "a.txt", text), BYTE)
    assert BYTE.decode(corpus.tokens) == text
    assert corpus.characters == len(text)
    assert corpus.documents.tolist() == [0]
    assert corpus.validation is None
    assert not corpus.tokens.flags.writeable


def test_byte_order_mark_is_dropped_at_the_start_only(tmp_path):
    corpus = read_corpus(write(tmp_path / "a.txt", "\ufeffa\ufeffb"), BYTE)
    assert BYTE.decode(corpus.tokens) == "a\ufeffb"
    assert corpus.characters == 3


@pytest.mark.parametrize("name", ["gpt2", "char", "byte"])
def test_documents_are_separated_by_end_of_text(tmp_path, name):
    documents = ["One day.", "\n", "A<|endoftext|>b ", "the end"]
    for i, text in enumerate(documents):
        write(tmp_path / f"{i}.txt", text)
    tokenizer = make_tokenizer(name, iter_text([tmp_path]))
    corpus = read_corpus([tmp_path], tokenizer)
    assert tokenizer.decode(corpus.tokens) == "<|endoftext|>".join(documents)
    assert np.count_nonzero(corpus.tokens == tokenizer.end_of_text) == 3  # the typed one is text
    assert corpus.characters == sum(map(len, documents))
    for i, text in enumerate(documents):
        start = corpus.documents[i]
        ids = tokenizer.encode(text)
        assert corpus.tokens[start : start + len(ids)].tolist() == ids.tolist()
    assert len(corpus.documents) == 4


@settings(deadline=None)
@given(
    documents=st.lists(st.text(min_size=1).filter(lambda text: "\0" not in text), min_size=1, max_size=3),
    chunk=st.integers(1, 20),
)
def test_tokens_do_not_depend_on_the_size_of_the_chunks(tmp_path_factory, documents, chunk):
    folder = tmp_path_factory.mktemp("texts")
    documents = [text.removeprefix("\ufeff") or "x" for text in documents]
    paths = [write(folder / f"{i}.txt", text) for i, text in enumerate(documents)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "CHUNK", chunk)
        corpus = read_corpus(paths, GPT2)
        assert "".join(iter_text(paths)) == "".join(documents)
    expected = []
    for text in documents:
        expected += [*([GPT2.end_of_text] if expected else []), *GPT2.encode(text)]
    assert corpus.tokens.tolist() == expected
    assert corpus.characters == sum(map(len, documents))


def test_a_text_of_many_chunks(tmp_path):
    text = (ROOT / "data" / "the-verdict.txt").read_text(encoding="utf-8") * 60
    corpus = read_corpus(write(tmp_path / "a.txt", text), GPT2)
    assert corpus.characters == len(text) > 4 * text_files.CHUNK
    assert corpus.tokens.tolist() == GPT2.encode(text).tolist()
    assert corpus.fingerprint == hashlib.sha256(corpus.tokens.astype("<u2").tobytes()).hexdigest()


def test_tokens_of_32_bits(tmp_path):
    text = "".join(chr(code) for code in range(1, 70_000) if not 0xD800 <= code < 0xE000)
    path = write(tmp_path / "a.txt", text)
    tokenizer = make_tokenizer("char", iter_text(path))
    corpus = read_corpus(path, tokenizer)
    assert corpus.tokens.dtype == np.uint32
    assert tokenizer.decode(corpus.tokens) == text


def test_different_texts_have_different_fingerprints(tmp_path):
    paths = [write(tmp_path / name, text) for name, text in (("a", "abc"), ("b", "abd"), ("c", "abc"))]
    first, other, same = (read_corpus(path, BYTE).fingerprint for path in paths)
    assert first == same != other
    assert read_corpus(paths[:2], BYTE).fingerprint != read_corpus(paths[1::-1], BYTE).fingerprint


def test_a_pipe_is_read_like_a_file(tmp_path):
    read_end, write_end = os.pipe()
    os.write(write_end, b"through a pipe")
    os.close(write_end)
    try:
        path = Path(f"/dev/fd/{read_end}")
        if not path.exists():
            pytest.skip("needs /dev/fd")
        assert BYTE.decode(read_corpus(path, BYTE).tokens) == "through a pipe"
    finally:
        os.close(read_end)


def test_progress_is_shown_on_a_terminal_after_a_second(tmp_path, capfd, monkeypatch):
    path = write(tmp_path / "a.txt", "some text " * 100)
    read_corpus(path, BYTE)
    assert text_files.progress([path], "Reading").disable
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    read_corpus(path, BYTE)
    with text_files.progress([path], "Reading") as bar:
        assert not bar.disable
    assert terminal.getvalue() == ""
    assert capfd.readouterr() == ("", "")


# Texts that are refused


def test_a_missing_path_is_refused(tmp_path):
    for paths in ([tmp_path / "no.txt"], tmp_path / "no.bin", [write(tmp_path / "a.txt", "a"), tmp_path / "no.txt"]):
        assert_refused(paths, BYTE, "there is no file or folder", tmp_path / "no.")
    with pytest.raises(DataError, match="no text was named"):
        read_corpus([], BYTE)


def test_a_folder_without_text_is_refused(tmp_path):
    write(tmp_path / "sub" / "a.md", "text")
    assert_refused([tmp_path], BYTE, tmp_path, "no .txt or .jsonl file")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_text_is_refused(tmp_path, content):
    write(tmp_path / "a.txt", "some")
    path = write(tmp_path / "b.txt", content)
    assert_refused([tmp_path], BYTE, f"{path} is empty")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 2**18])
@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"caf\xe9 au lait", 3),
        (b"\xef\xbb\xbfcaf\xe9 au lait", 6),
        ("naïve €uro 👩".encode()[:-1], 14),  # cut off inside the last character
        (b"ab\xe2\x82\xe2\x82\xac", 2),
        (b"a\xed\xa0\x80", 1),  # a surrogate
    ],
)
def test_text_that_is_not_utf8_is_refused_with_the_byte(tmp_path, monkeypatch, content, offset, chunk):
    monkeypatch.setattr(text_files, "CHUNK", chunk)
    path = write(tmp_path / "a b.txt", content)
    assert_refused(path, GPT2, f"{path} is not UTF-8", f"at offset {offset} ", f"iconv -f LATIN1 -t UTF-8 '{path}'")


def test_utf16_and_binary_files_are_refused(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path / "a.txt", "\ufeffhello".encode(encoding))
        assert_refused(path, BYTE, "is not UTF-8", "iconv -f UTF-16")
    path = write(tmp_path / "model.txt", b"GGUF\x03\x00\x00\xff")
    assert_refused(path, BYTE, f"{path} is a binary file", "offset 5 ")


@pytest.mark.parametrize("tokenizer", [BYTE, GPT2], ids=["byte", "gpt2"])
def test_a_bad_byte_far_into_a_text_is_found_and_nothing_is_left_behind(tmp_path, monkeypatch, tokenizer):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    size = 3 * text_files.CHUNK + 5
    path = write(tmp_path / "a.txt", (b"all is well " * size)[:size] + b"\xff and on")
    assert_refused(path, tokenizer, f"at offset {size:,} ")
    assert list(folder.iterdir()) == []


def test_an_unreadable_path_is_refused(tmp_path, monkeypatch):
    # Root may read everything, so the refusal is made here.
    path = write(tmp_path / "a.txt", "text")

    def refuse(name, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    monkeypatch.setattr(text_files, "open", refuse, raising=False)
    assert_refused(path, BYTE, f"can't read {path}: Permission denied")
    monkeypatch.setattr(text_files.os, "scandir", refuse)
    assert_refused(tmp_path, BYTE, f"can't read the folder {tmp_path}: Permission denied")


def test_a_dangling_link_in_a_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="there is no file or folder"):
        read_corpus(tmp_path, BYTE)


def test_a_full_disk_is_an_error_that_names_tmpdir(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_module.tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(tempfile, "tempdir", "/somewhere")
    assert_refused(write(tmp_path / "a.txt", "text"), BYTE, "/somewhere: No space left on device", "TMPDIR")


def test_a_text_that_the_tokenizer_cannot_encode_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK", 4)
    path = write(tmp_path / "a.txt", "aababaïab")
    assert_refused(path, CharTokenizer("ab"), f"{path}: ", "'ï' (U+00EF) at offset 6 ")


# Token files


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
    save_tokenizer(ours, tmp_path / "npgpt_tokenizer.json")
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


# Splitting


def corpus_of(lengths):
    documents = np.cumsum([0, *lengths])
    return Corpus(np.arange(documents[-1], dtype=np.uint16), documents[:-1], None, "")


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    fraction=st.floats(0, 1, exclude_max=True),
    by=st.sampled_from(["tokens", "documents"]),
)
def test_a_split_keeps_all_tokens_in_order(lengths, fraction, by):
    corpus = corpus_of(lengths)
    if by == "documents" and len(lengths) == 1 and fraction > 0:
        with pytest.raises(DataError, match="one document"):
            train_val_split(corpus, fraction, by)
        return
    train, validation = train_val_split(corpus, fraction, by)
    if fraction == 0:
        assert validation is None
        assert train is corpus.tokens
        return
    assert [*train, *validation] == [*corpus.tokens]
    if by == "tokens":
        assert abs(len(validation) - fraction * sum(lengths)) <= 0.5
    else:
        assert len(train) > 0
        assert len(train) in corpus.documents
        # No other start of a document is nearer.
        distances = abs(corpus.documents[1:] - (1 - fraction) * sum(lengths))
        assert abs(len(train) - (1 - fraction) * sum(lengths)) <= distances.min() + 1


def test_wrong_splits_are_refused():
    for fraction in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="fraction"):
            train_val_split(corpus_of([5]), fraction)
    with pytest.raises(ConfigError, match="'lines'"):
        train_val_split(corpus_of([5]), 0.1, by="lines")
