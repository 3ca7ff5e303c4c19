"""Files of tokens, mapped into memory: nanoGPT's, llm.c's, and those that ``python -m npgpt.prepare`` writes.

    nanoGPT     tokens as little-endian uint16, and nothing else. Of characters, if meta.pkl is beside them
    llm.c       a header of 256 int32: the magic number 20240520, version 1, the number of tokens, zeros; then uint16
    npgpt       as nanoGPT's; uint32 if the tokenizer has more than 65,536 ids. npgpt_tokenizer.json is beside them

llm.c's magic number, read as tokens, begins with 55,432, which GPT-2's tokenizer doesn't have.

Source: karpathy/nanoGPT, data/*/prepare.py and train.py; karpathy/llm.c, dev/data/data_common.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.nanogpt_meta import META_FILE, read_meta
from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE, read_tokenizer
from npgpt.errors import DataError
from npgpt.text.tokenizer import Tokenizer

TOKEN_CHUNK = 2**22  # tokens that are checked at a time

_HEADER = 256  # int32
_GPT2, _LLAMA3 = 20240520, 20240801
_VERSION = 1


def find_token_files(paths: list[Path]) -> list[Path]:
    """-> [x.bin], [train.bin, val.bin] or, if the paths are text, []. Raises DataError on a mixture.

    A folder has the two under these names, or as llm.c writes them: NAME_train.bin and NAME_val.bin.
    """
    found = []
    for path in paths:
        if pair := _pair_in(path):
            found.append(pair)
        elif path.suffix == ".bin" and not path.is_dir():
            found.append([path])
    if found and len(paths) > 1:
        advice = "Give one .bin file, or one folder with a train.bin and a val.bin, or only text."
        raise DataError(f"token files can't be read together with others: {listed(paths)}.\n{advice}")
    return found[0] if found else []


def tokenizer_beside(token_files: list[Path]) -> Tokenizer | None:
    """The tokenizer that was stored with token files, if one was. Raises CheckpointError if it is damaged."""
    place = _tokenizer_file(token_files[0]) if token_files else None
    if place is None:
        return None
    return read_meta(MappedFile(place)) if place.name == META_FILE else read_tokenizer(place)


def check_tokenizer(token_files: list[Path], tokenizer: Tokenizer) -> None:
    """Raise DataError if the tokens come with another tokenizer than this one."""
    stored = tokenizer_beside(token_files)
    if stored and stored.to_dict() != tokenizer.to_dict():
        place = _tokenizer_file(token_files[0])
        problem = f"{token_files[0]} was made with another tokenizer than the model's, the one in {place}"
        raise DataError(f"{problem}.\nPrepare the text with the model's, or train a new model on these tokens.")


def map_tokens(path: Path, tokenizer: Tokenizer, digest: Any, bar: tqdm) -> tuple[np.ndarray, np.ndarray]:
    """Map one file -> its tokens (N,), the positions at which its documents start. Adds the tokens to hashlib's digest.

    Raises DataError on a file that is empty, cut off, or of another tokenizer.
    """
    dtype = tokenizer.dtype.newbyteorder("<")
    try:
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path} is empty: there are no tokens in it")
        start = 4 * _HEADER if _has_header(path, size) else 0
        if start:
            dtype = np.dtype("<u2")
        if (size - start) % dtype.itemsize:
            odd = "an odd number, but a token has two" if dtype.itemsize == 2 else "but a token has four"
            raise DataError(f"{path} has {size:,} bytes, {odd}: the file is cut off")
        tokens = np.asarray(np.memmap(path, dtype, mode="r", offset=start))
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    starts = [np.zeros(1, np.int64)]
    for first in range(0, len(tokens), TOKEN_CHUNK):
        chunk = tokens[first : first + TOKEN_CHUNK]
        too_large = chunk >= tokenizer.vocab_size
        if too_large.any():
            position = first + int(too_large.argmax())
            raise DataError(
                f"{path} was not made with the {tokenizer.name} tokenizer, or has a header before its tokens:\n"
                f"its token {position:,} is {tokens[position]}, but the last id is {tokenizer.vocab_size - 1}."
            )
        starts.append(first + 1 + np.flatnonzero(chunk == tokenizer.end_of_text))
        digest.update(chunk.data)
        bar.update(chunk.nbytes)
    documents = np.concatenate(starts)
    # nanoGPT puts <|endoftext|> after every document, and after the last one no other starts. llm.c puts it before.
    return tokens, documents[documents < len(tokens)]


Stamp = tuple[int, int, int, int]  # a file's device, number, size in bytes, and time of its last change


def stamp(path: Path) -> Stamp:
    """What tells whether a file was written to. Raises DataError."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Raise DataError if a file has been written to since its stamp was taken: what is mapped of it has changed.

    A file that was removed, or replaced by another of its name, stays in memory as it was.
    """
    for path, before in stamps.items():
        try:
            now = stamp(path)
        except DataError:
            continue
        if now[:2] == before[:2] and now != before:
            raise DataError(f"{path} was written to while a run was training on it: put back what was in it")


def _tokenizer_file(tokens):
    """The file beside token files that says what their ids are: npgpt's own, or else nanoGPT's. None without one."""
    places = map(tokens.with_name, (OUR_TOKENIZER_FILE, META_FILE))
    return next((place for place in places if place.exists()), None)


def listed(paths: list[Path]) -> str:
    """Paths in a message: the first three."""
    return ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")


def _pair_in(folder):
    pair = [folder / "train.bin", folder / "val.bin"]
    try:
        if all(part.is_file() for part in pair):
            return pair
    except OSError as error:
        raise DataError(f"can't read {folder}: {error.strerror}") from error
    pair = []
    for part in ("train", "val"):
        found = sorted(folder.glob(f"*_{part}.bin")) if folder.is_dir() else []
        if len(found) > 1:
            raise DataError(f"{folder} has several token files to choose from: name one of {listed(found)}")
        pair += found
    return pair if len(pair) == 2 else []


def _has_header(path, size):
    """Whether the file has llm.c's header. Raises DataError if that is of other tokens, or doesn't fit the size."""
    with open(path, "rb") as file:
        header = np.frombuffer(file.read(4 * _HEADER)[:12].ljust(12, b"\0"), "<i4")
    magic, version, count = header.tolist()
    if magic == _LLAMA3:
        raise DataError(f"{path} has tokens of Llama 3, written by llm.c; GPT-2's are read here")
    if magic != _GPT2:
        return False
    if version != _VERSION:
        raise DataError(f"{path}: llm.c's header: version {version:,} is not {_VERSION}")
    if size != 4 * _HEADER + 2 * count:
        expected = f"{4 * _HEADER + 2 * count:,} for the {count:,} tokens of llm.c's header"
        raise DataError(f"{path} has {size:,} bytes, and not {expected}: the file is cut off or damaged")
    return True
