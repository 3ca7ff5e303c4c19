"""Text to tokens: read files, tokenize them, split them for training and validation.

Text is read in chunks, and its tokens go to a temporary file that is mapped into memory, so memory stays small.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from npgpt.errors import ConfigError, DataError, TokenizerError
from npgpt.text import SPLITS
from npgpt.text.files import Paths, as_paths, find_texts, progress, read_text
from npgpt.text.tokenizers import Tokenizer

TOKEN_CHUNK = 2**22  # tokens of a .bin that are checked at a time


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on.

    ===========  ================================================================================================
    tokens       (N,) ids, uint16 or uint32, read-only, memory-mapped; <|endoftext|> is between the documents
    documents    (D,) int64, the position in tokens at which each document starts; the first is 0
    characters   the number of characters of the text; None if it came as tokens
    fingerprint  the tokens' sha256, for a .bin that of the file; it changes with the text
    validation   (M,) ids if the data came with a validation part, else None
    ===========  ================================================================================================
    """

    tokens: np.ndarray
    documents: np.ndarray
    characters: int | None
    fingerprint: str
    validation: np.ndarray | None = None


def read_corpus(paths: Paths, tokenizer: Tokenizer) -> Corpus:
    """Read text files and folders of them (see ``find_texts``), or token files.

    Each text file is a document. The tokens are in an unnamed file in the folder TMPDIR, which disappears with them.

    A .bin file has nanoGPT's format, bare little-endian uint16, and is mapped itself; <|endoftext|> separates its
    documents. A folder with a train.bin and a val.bin gives tokens and validation.

    Raises DataError if a file can't be read as text or as the tokenizer's ids; TokenizerError if one can't be encoded.
    """
    paths = as_paths(paths)
    token_files = _find_token_files(paths)
    if not token_files:
        return _tokenize(find_texts(paths), tokenizer)
    digest = sha256()
    with progress(token_files, "Reading") as bar:
        parts = [_map_tokens(path, tokenizer, digest, bar) for path in token_files]
    (tokens, documents), validation = parts[0], parts[1][0] if len(parts) == 2 else None
    return Corpus(tokens, documents, None, digest.hexdigest(), validation)


def iter_text(paths: Paths) -> Iterator[str]:
    """Yield the text that ``read_corpus`` would tokenize, in chunks, for ``make_tokenizer``. Raises its DataErrors."""
    paths = as_paths(paths)
    if _find_token_files(paths):
        raise DataError(f"{_list(paths)} has tokens, not text, so it has no characters to make a tokenizer from")
    found = find_texts(paths)
    with progress(found, "Reading") as bar:
        for path in found:
            yield from read_text(path, bar)


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
    if not 0 <= fraction < 1:
        raise ConfigError(f"the fraction for validation must be at least 0 and less than 1, not {fraction}")
    if by not in SPLITS:
        raise ConfigError(f"a text can be split by tokens or by documents, not by {by!r}")
    if fraction == 0:
        return corpus.tokens, None
    if corpus.validation is not None:
        return corpus.tokens, corpus.validation
    cut = len(corpus.tokens) - round(fraction * len(corpus.tokens))
    if by == "documents":
        starts = corpus.documents[1:]
        if not len(starts):
            raise DataError("one document can't be split by documents: give several files, or split by tokens")
        cut = starts[np.abs(starts - cut).argmin()]
    return corpus.tokens[:cut], corpus.tokens[cut:]


def _tokenize(paths: list[Path], tokenizer: Tokenizer) -> Corpus:
    if len(paths) > 1 and tokenizer.end_of_text is None:
        raise DataError(f"{paths[1]}: the tokenizer has no <|endoftext|> to separate documents: train on one text")
    digest = sha256()
    documents = []
    characters = count = 0

    def counted(chunks):
        nonlocal characters
        for chunk in chunks:
            characters += len(chunk)
            yield chunk

    def encoded():
        for path in paths:
            if documents:
                yield np.array([tokenizer.end_of_text], tokenizer.dtype)
            documents.append(count)
            try:
                yield from tokenizer.encode_stream(counted(read_text(path, bar)))
            except TokenizerError as error:
                raise TokenizerError(f"{path}: {error}") from error

    try:
        # The file has no name, so nothing is left behind, however this ends. The mapping keeps it alive.
        with tempfile.TemporaryFile() as file, progress(paths, "Tokenizing") as bar:
            for ids in encoded():
                file.write(ids.data)
                digest.update(ids.data)
                count += len(ids)
            file.flush()
            tokens = np.asarray(np.memmap(file, tokenizer.dtype, mode="r", shape=(count,)))
    except OSError as error:  # of the temporary file: the text files' are DataErrors already
        raise DataError(
            f"can't write the tokens to a temporary file in {tempfile.tempdir or 'any folder'}: {error.strerror}.\n"
            "Set TMPDIR to a folder with more room: twice the size of the text is always enough."
        ) from error
    return Corpus(tokens, np.array(documents, np.int64), characters, digest.hexdigest())


def _find_token_files(paths: list[Path]) -> list[Path]:
    """-> [x.bin], [train.bin, val.bin] or, if the paths are text, []. Raises DataError on a mixture."""
    found = []
    for path in paths:
        parts = [path / "train.bin", path / "val.bin"]
        if all(part.is_file() for part in parts):
            found.append(parts)
        elif path.suffix == ".bin" and not path.is_dir():
            found.append([path])
    if found and len(paths) > 1:
        advice = "Give one .bin file, or one folder with a train.bin and a val.bin, or only text."
        raise DataError(f"token files can't be read together with others: {_list(paths)}.\n{advice}")
    return found[0] if found else []


def _map_tokens(path, tokenizer, digest, bar):
    """Map one .bin -> its tokens, its documents' starts. Adds the tokens to the digest."""
    try:
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path} is empty: there are no tokens in it")
        if size % 2:
            raise DataError(f"{path} has {size:,} bytes, an odd number, but a token has two: the file is cut off")
        tokens = np.asarray(np.memmap(path, "<u2", mode="r"))
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    starts = [[0]]
    for first in range(0, len(tokens), TOKEN_CHUNK):
        chunk = tokens[first : first + TOKEN_CHUNK]
        unknown = chunk >= tokenizer.vocab_size
        if unknown.any():
            position = first + int(unknown.argmax())
            raise DataError(
                f"{path} was not made with the {tokenizer.name} tokenizer, or has a header before its tokens:\n"
                f"its token {position:,} is {tokens[position]}, but the last id is {tokenizer.vocab_size - 1}."
            )
        starts.append(first + 1 + np.flatnonzero(chunk == tokenizer.end_of_text))
        digest.update(chunk.data)
        bar.update(chunk.nbytes)
    documents = np.concatenate(starts)
    # nanoGPT puts <|endoftext|> after every document, and after the last one no other starts.
    return tokens, documents[documents < len(tokens)]


def _list(paths):
    return ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
