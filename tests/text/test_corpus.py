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
from helpers.corpora import assert_refused, write
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.errors import ConfigError, DataError
from npgpt.text import corpus as corpus_module
from npgpt.text import files as text_files
from npgpt.text.corpus import Corpus, iter_text, read_corpus, tokenizer_for, train_val_split
from npgpt.text.files import find_texts
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, make_tokenizer

BYTE = ByteTokenizer()
GPT2 = GPT2Tokenizer()


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
        (b"ab\xe2\x82\xe2\x82\xac", 2),
        (b"a\xed\xa0\x80", 1),  # a surrogate
        (b"ab\xff\xfeab", 2),  # UTF-16's mark, but not at the beginning
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_temporary_files_that_can_not_be_written(tmp_path, monkeypatch, number):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(number, "the reason")

    monkeypatch.setattr(corpus_module.tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(tempfile, "tempdir", "/somewhere")
    message = assert_refused(write(tmp_path / "a.txt", "text"), BYTE, "/somewhere: the reason")
    assert ("TMPDIR" in message) == (number == errno.ENOSPC)


def test_a_text_that_the_tokenizer_cannot_encode_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK", 4)
    path = write(tmp_path / "a.txt", "aababaïab")
    assert_refused(path, CharTokenizer("ab"), f"{path}: ", "'ï' (U+00EF) at offset 6 ")


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_a_folder_is_no_text(tmp_path):
    """Reading it might never end."""
    write(tmp_path / "a.txt", "words")
    os.mkfifo(tmp_path / "b.txt")
    assert find_texts(tmp_path) == [tmp_path / "a.txt"]
    (tmp_path / "c.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"there is no file or folder .*c\.txt"):
        list(iter_text(tmp_path))


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="this system has no files for open pipes")
def test_a_pipe_is_not_read_for_a_tokenizer_and_then_for_its_tokens():
    read_end, write_end = os.pipe()
    os.write(write_end, b"words")
    os.close(write_end)
    path = f"/dev/fd/{read_end}"
    for name in ("char", "bpe:300"):
        with pytest.raises(DataError, match="can be read only once: save its text in a file"):
            tokenizer_for(name, path)
    assert read_corpus(path, tokenizer_for("byte", path)).characters == 5
    os.close(read_end)


@pytest.mark.parametrize("chunk", [1, 3, 2**18])
def test_a_file_that_ends_within_a_character(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text_files, "CHUNK", chunk)
    (tmp_path / "a.txt").write_bytes("naïve é".encode()[:-1])
    with pytest.raises(DataError, match=r"a\.txt is cut off within its last character, at byte 8"):
        list(iter_text(tmp_path / "a.txt"))
