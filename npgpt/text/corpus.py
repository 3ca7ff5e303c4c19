"""Text to tokens: read files, tokenize them, split them for training and validation.

Text is read in chunks, and its tokens go to a temporary file that is mapped into memory, so memory stays small.
"""

import errno
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from npgpt.errors import ConfigError, DataError, TokenizerError
from npgpt.text import SPLITS, tokenizer_name
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.conversations import ConversationFile, is_conversations
from npgpt.text.files import Paths, as_paths, find_texts, progress, read_text
from npgpt.text.token_files import (
    Stamp,
    check_tokenizer,
    find_token_files,
    listed,
    map_tokens,
    stamp,
    tokenizer_beside,
)
from npgpt.text.tokenizer import Tokenizer
from npgpt.text.tokenizers import CharTokenizer, make_tokenizer

FEW_CONVERSATIONS = 10  # fewer than these teach a model little but themselves


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on.

    =============  ================================================================================================
    tokens         (N,) ids, uint16 or uint32, read-only, memory-mapped; <|endoftext|> is between the documents
    documents      (D,) int64, the position in tokens at which each document starts; the first is 0
    characters     the number of characters of the text; None if it came as tokens
    fingerprint    the tokens' sha256, for a .bin that of the file; it changes with the text
    validation     (M,) ids if the data came with a validation part, else None
    conversations  how many of the documents are conversations
    answers        (N,) bool, what an assistant says, <|endoftext|> after it too; None without conversations
    warnings       lines that the user should see
    stamps         {path: its stamp} of token files when they were mapped
    =============  ================================================================================================
    """

    tokens: np.ndarray
    documents: np.ndarray
    characters: int | None
    fingerprint: str
    validation: np.ndarray | None = None
    conversations: int = 0
    answers: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)


def read_corpus(paths: Paths, tokenizer: Tokenizer) -> Corpus:
    """Read text files, files of conversations and folders of them (see ``find_texts``), or token files.

    Each text file is a document, and so is each conversation of a .jsonl file. They may be mixed, and keep the order of
    the paths. The tokens are in an unnamed file in the folder TMPDIR, which disappears with them.

    Token files (token_files.py) are mapped themselves; <|endoftext|> separates their documents. There may be one, or a
    folder with a train.bin and a val.bin, which gives tokens and validation; they are not mixed with anything.

    Raises DataError if a file can't be read as text or as the tokenizer's ids; TokenizerError if one can't be encoded.
    """
    paths = as_paths(paths)
    token_files = find_token_files(paths)
    if not token_files:
        return _tokenize(find_texts(paths), tokenizer)
    check_tokenizer(token_files, tokenizer)
    stamps = {path: stamp(path) for path in token_files}
    digest = sha256()
    with progress(token_files, "Reading") as bar:
        parts = [map_tokens(path, tokenizer, digest, bar) for path in token_files]
    (tokens, documents), validation = parts[0], parts[1][0] if len(parts) == 2 else None
    return Corpus(tokens, documents, None, digest.hexdigest(), validation, stamps=stamps)


def tokenizer_for(name: str | None, paths: Paths, default: str = "gpt2") -> Tokenizer:
    """The tokenizer for some files: the one that was stored with token files, else the one of that name.

    Raises DataError if both are there and differ, or if it is to be made from the text and there are tokens only.
    """
    token_files = find_token_files(as_paths(paths))
    kind, size = tokenizer_name(name or default)
    if stored := tokenizer_beside(token_files):
        if name is not None and (kind != stored.name or size not in (0, stored.vocab_size)):
            made = f"the {stored.name} tokenizer of {stored.vocab_size:,} ids"
            raise DataError(f"{token_files[0]} was made with {made}: leave out --tokenizer {name}")
        return stored
    if kind in (BPETokenizer.name, CharTokenizer.name):
        _check_twice_readable(paths)
    if kind == BPETokenizer.name:
        return BPETokenizer.from_texts(iter_documents(paths), size)
    return make_tokenizer(kind, iter_text(paths))


def _check_twice_readable(paths):
    """Raise DataError on a pipe or device: a tokenizer is made from a first reading, and tokens from a second one."""
    for path in as_paths(paths):
        if not (path.is_file() or path.is_dir()):
            raise DataError(f"{path} can be read only once: save its text in a file, and name that one")


def iter_text(paths: Paths) -> Iterator[str]:
    """Yield the text that ``read_corpus`` would tokenize, in chunks, for ``make_tokenizer``. Raises its DataErrors."""
    for chunks in iter_documents(paths):
        yield from chunks


def iter_documents(paths: Paths) -> Iterator[Iterator[str]]:
    """Yield the same document by document; each is to be read before the next."""
    paths = as_paths(paths)
    if find_token_files(paths):
        raise DataError(f"{listed(paths)} has tokens, not text, so it has no characters to make a tokenizer from")
    found = find_texts(paths)
    with progress(found, "Reading") as bar:
        for path in found:
            if is_conversations(path):
                yield from (iter([conversation.text]) for conversation in ConversationFile(path).read(bar))
            else:
                yield read_text(path, bar)


def train_val_split(corpus: Corpus, fraction: float = 0.1, by: str = "tokens") -> tuple[np.ndarray, np.ndarray | None]:
    """Split off the last ``fraction`` of the tokens for validation, which is None if the fraction is 0.

    by="tokens" cuts anywhere. by="documents" cuts at the start of the document nearest to the fraction, so that no
    document is in both parts. A corpus that came with a validation part keeps it.

    Raises ConfigError on a fraction outside 0 <= fraction < 1 and on another ``by``; DataError on a single document.

    >>> corpus = Corpus(np.arange(10), documents=np.array([0, 4, 8]), characters=None, fingerprint="")
    >>> train, val = train_val_split(corpus, 0.3, by="documents")
    >>> train.tolist(), val.tolist()
    ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9])
    """
    if corpus.validation is not None and 0 < fraction < 1 and by in SPLITS:
        return corpus.tokens, corpus.validation
    cut = split_position(len(corpus.tokens), corpus.documents, fraction, by)
    return corpus.tokens[:cut] if fraction else corpus.tokens, corpus.tokens[cut:] if fraction else None


def split_position(count: int, documents: np.ndarray, fraction: float, by: str) -> int:
    """Where ``train_val_split`` cuts ``count`` tokens, whose documents start at these positions. Raises its errors."""
    if not 0 <= fraction < 1:
        raise ConfigError(f"the fraction for validation must be at least 0 and less than 1, not {fraction}")
    if by not in SPLITS:
        raise ConfigError(f"a text can be split by tokens or by documents, not by {by!r}")
    cut = count - round(fraction * count)
    if by == "documents" and fraction:
        starts = documents[1:]
        if not len(starts):
            advice = "give several, or split by tokens"
            raise DataError(f"one document can't be split by documents: {advice}")
        cut = int(starts[np.abs(starts - cut).argmin()])
    return cut


class TokenWriter:
    """Writes the tokens of text files to a file, <|endoftext|> between documents, and counts what there was.

    count           tokens so far
    documents       the position at which each document begins, 8 bytes each
    characters      of the text
    conversations   how many of the documents are conversations
    digest          the tokens' sha256
    warnings        lines that the user should see
    """

    def __init__(self, tokenizer: Tokenizer, file: BinaryIO, answers: BinaryIO | None = None):
        """answers: gets a byte for each token, 1 where it is an assistant's; <|endoftext|> after it counts too."""
        self.tokenizer, self._file, self._answers = tokenizer, file, answers
        self.count = self.characters = self.conversations = 0
        self.documents = array("q")
        self.warnings: list[str] = []
        self.digest = sha256()
        self._after_answer = False

    def write(self, paths: list[Path]) -> None:
        """Write all files. Raises DataError, TokenizerError, which name the file."""
        with progress(paths, "Tokenizing") as bar:
            for path in paths:
                try:
                    if is_conversations(path):
                        self._write_conversations(ConversationFile(path), bar)
                    else:
                        self._write_text(path, bar)
                except TokenizerError as error:
                    raise TokenizerError(f"{path}: {error}") from error
        if 0 < self.conversations < FEW_CONVERSATIONS:
            few = f"{self.conversations} conversation{'s are few' if self.conversations > 1 else ' is little'}"
            self.warnings.append(f"{few}: the model will learn the very words, and nothing that goes beyond them")

    def _write_text(self, path, bar):
        self._begin_document(path)
        for ids in self.tokenizer.encode_stream(self._counted(read_text(path, bar))):
            self._add(ids)
        self._after_answer = False

    def _write_conversations(self, file, bar):
        for conversation in file.read(bar):
            self._begin_document(file.path)
            self.conversations += 1
            self.characters += len(conversation.text)
            self._add(*conversation.encode(self.tokenizer))
            self._after_answer = True
        if file.unused:
            fields = ", ".join(f"{name[:40]!r} ({n:,} times)" for name, n in file.unused.most_common(5))
            self.warnings.append(f"{file.path}: these fields are no part of the text: {fields}")

    def _begin_document(self, path):
        if self.documents:
            if self.tokenizer.end_of_text is None:
                raise DataError(f"{path}: the tokenizer has no <|endoftext|> to separate documents: train on one text")
            self._add(np.array([self.tokenizer.end_of_text], self.tokenizer.dtype), np.array([self._after_answer]))
        self.documents.append(self.count)

    def _counted(self, chunks):
        for chunk in chunks:
            self.characters += len(chunk)
            yield chunk

    def _add(self, ids, answers=None):
        self._file.write(ids.data)
        self.digest.update(ids.data)
        self.count += len(ids)
        if self._answers is not None:
            self._answers.write(bytes(len(ids)) if answers is None else answers.data)


def _tokenize(paths: list[Path], tokenizer: Tokenizer) -> Corpus:
    try:
        # The files have no name, so nothing is left behind, however this ends. The mapping keeps them alive.
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as marks:
            writer = TokenWriter(tokenizer, file, marks if any(map(is_conversations, paths)) else None)
            writer.write(paths)
            file.flush()
            marks.flush()
            tokens = np.asarray(np.memmap(file, tokenizer.dtype, mode="r", shape=(writer.count,)))
            answers = np.asarray(np.memmap(marks, bool, mode="r", shape=(writer.count,))) if marks.tell() else None
    except OSError as error:  # of the temporary files: the text files' are DataErrors already
        problem = f"can't write the tokens to a temporary file in {tempfile.tempdir or 'any folder'}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem += ".\nSet TMPDIR to a folder with more room: twice the size of the text is always enough"
        raise DataError(problem) from error
    return Corpus(
        tokens,
        np.array(writer.documents, np.int64),
        writer.characters,
        writer.digest.hexdigest(),
        conversations=writer.conversations,
        answers=answers,
        warnings=tuple(writer.warnings),
    )
