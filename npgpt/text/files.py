"""Files to text: find the files, and read them in chunks."""

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from npgpt.errors import DataError
from npgpt.shell import quoted

Paths = str | Path | Iterable[str | Path]

CHUNK = 2**18  # bytes read at a time


def as_paths(paths: Paths) -> list[Path]:
    """Make a list of one path or several. Raises DataError on an empty list and on a missing file."""
    found = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not found:
        raise DataError("no text was named: give text files, or a folder with .txt files")
    for path in found:
        _size(path)  # raises if there is no such file
    return found


def find_texts(paths: Paths) -> list[Path]:
    """Expand paths: a folder stands for all .txt and .jsonl files below it, sorted, without hidden ones (.git, ._a).

    Raises DataError on a missing path, a folder that can't be read, and a folder without text.
    """
    found = []
    for path in as_paths(paths):
        in_folder = sorted(_walk(path)) if path.is_dir() else [path]
        if not in_folder:
            raise DataError(f"the folder {path} has no .txt or .jsonl file in it: name the files, or another folder")
        found += in_folder
    return found


def read_text(path: Path, bar: tqdm) -> Iterator[str]:
    """Yield the UTF-8 text of one file in chunks, unchanged ("\\r\\n" stays) but for a byte-order mark at its start.

    Raises DataError if the file can't be read, is empty or binary, or has a byte that is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    end = 0
    empty = True
    try:
        with open(path, "rb", buffering=0) as file:
            while True:
                raw = file.read(CHUNK)
                if end == 0 and raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                    raise _not_utf8(path, 0, "UTF-16")
                if b"\0" in raw:
                    raise DataError(
                        f"{path} is a binary file, not text: its byte at offset {end + raw.index(0):,} is zero.\n"
                        "Give text in UTF-8, or tokens in nanoGPT's format in a file named .bin."
                    )
                end += len(raw)
                try:
                    text = decoder.decode(raw, final=not raw)
                except UnicodeDecodeError as error:
                    if not raw:
                        raise DataError(f"{path} is cut off within its last character, at byte {end:,}") from error
                    # error.object is the undecoded rest of the last chunk, then raw: it ends where raw does.
                    raise _not_utf8(path, end - len(error.object) + error.start, "LATIN1") from error
                if text:
                    empty = False
                    yield text
                if not raw:
                    break
                bar.update(len(raw))
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    if empty:
        raise DataError(f"{path} is empty: there is no text in it")


def progress(paths: Iterable[Path], what: str) -> tqdm:
    """A progress bar over the files' bytes: on stderr if it is a terminal, and after one second."""
    total = sum(map(_size, paths))
    return tqdm(total=total, desc=what, unit="B", unit_scale=True, delay=1, disable=None, leave=False)


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(f"there is no file or folder {path}") from error
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error


def _walk(folder):
    """The .txt and .jsonl files below a folder. Unlike Path.rglob, this raises on a folder that can't be read."""

    def stop(error):
        raise DataError(f"can't read the folder {error.filename}: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith((".txt", ".jsonl")) and not name.startswith("."):
                path = Path(parent, name)
                if path.is_file() or not path.exists():  # no pipe, which may never end; a broken link is an error
                    yield path


def _not_utf8(path, offset, likely):
    return DataError(
        f"{path} is not UTF-8: its byte at offset {offset:,} is invalid. If it is {likely}, this converts it:\n"
        f"iconv -f {likely} -t UTF-8 {quoted(path)} > converted.txt"
    )
