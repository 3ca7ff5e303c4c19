"""Examples in JSON Lines, one object a line, as benchmarks are published. Files come from strangers: every line is
checked, and what is wrong with it is a DataError that names the file and the line.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.errors import CheckpointError, DataError, TokenizerError
from npgpt.text.tokenizers import Tokenizer

MAX_LINE_BYTES = 2**18  # a line of HellaSwag has some two thousand
MAX_EXAMPLES = 10**6


def find_task(path: str | Path) -> str:
    """What a file is for, by its first line, whatever its name.

    It is "hellaswag" if the line is a JSON object with "endings", "lambada" if it is one with "text". Anything else is
    a text, and so is a folder: "perplexity".

    Raises DataError if the file can't be read, or only once, as a pipe: then the task must be told.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return "perplexity"
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no ordinary file, so its task can't be found by looking into it: give --task")
        with open(path, "rb") as file:
            line = file.readline(MAX_LINE_BYTES)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    try:
        example = _parse(line, str(path)) if line.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" else None
    except DataError:
        example = None
    if not isinstance(example, dict):
        return "perplexity"
    return "hellaswag" if "endings" in example else "lambada" if "text" in example else "perplexity"


def read_examples(path: str | Path, limit: int | None = None) -> Iterator["Example"]:
    """Yield the objects of a file, at most ``limit`` of them; blank lines are none. Raises DataError."""
    found = 0
    try:
        with open(path, "rb") as file:
            for number in count(1):
                if found == limit or not (line := file.readline(MAX_LINE_BYTES + 1)):
                    break
                place = f"{path}, line {number:,}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{place}: longer than {MAX_LINE_BYTES:,} bytes, so it is no example")
                if not line.strip():
                    continue
                values = _parse(line, place)
                if not isinstance(values, dict):
                    raise DataError(f"{place}: a JSON object was expected, not {type(values).__name__}")
                found += 1
                if found > MAX_EXAMPLES:
                    raise DataError(f"{path} has more than {MAX_EXAMPLES:,} examples: --limit takes the first N")
                yield Example(place, values)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    if not found:
        raise DataError(f"{path} is empty: there are no examples in it")


class Example:
    """The values of one line, and its place in messages."""

    def __init__(self, place: str, values: dict[str, Any]):
        self.place, self.values = place, values

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.place}: {problem}")

    def text(self, field: str) -> str:
        """A field that must be a string. Raises DataError."""
        return self._checked(field, str, "a string")

    def texts(self, field: str) -> list[str]:
        """A field that must be a list of strings. Raises DataError."""
        values = self._checked(field, list, "a list of strings")
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(f"{field}: number {i + 1} must be a string, not {type(value).__name__}")
        return values

    def _checked(self, field, kind, expected):
        if field not in self.values:
            raise self.error(f"the field {field!r} is missing")
        value = self.values[field]
        if not isinstance(value, kind):
            raise self.error(f"{field} must be {expected}, not {type(value).__name__}")
        return value

    def encode(self, tokenizer: Tokenizer, context: str, continuation: str, limit: int) -> tuple[np.ndarray, int]:
        """-> the ids of a text in two parts, and how many of them, at the end, are the continuation's.

        limit   of a model's context. Of ids beyond it, and one, the first are left out

        The whole text is encoded, and the context's number of ids, encoded alone, is where the continuation begins.
        Spaces at the context's end belong to the continuation, since GPT-2's tokens begin with them. An empty context
        becomes what precedes a document: <|endoftext|>. All this is as in lm-evaluation-harness (``_encode_pair``).

        Raises DataError if a part can't be encoded, or the continuation alone is longer than the context.
        """
        stripped = context.rstrip()
        context, continuation = stripped, context[len(stripped) :] + continuation
        try:
            before = tokenizer.encode_prompt(context)
            after = tokenizer.encode(context + continuation)[len(before) if context else 0 :]
        except TokenizerError as error:
            raise self.error(str(error)) from None
        if not len(after):
            raise self.error("there is nothing to predict")
        if len(after) > limit:
            shown = continuation if len(continuation) < 40 else f"{continuation[:36]} ..."
            raise self.error(f"{shown!r} has {len(after):,} tokens, more than the context of {limit:,}")
        return np.concatenate([before, after])[-limit - 1 :], len(after)


def _parse(line: bytes, place: str) -> Any:
    try:
        return parse_json(line.removeprefix(b"\xef\xbb\xbf"), place)
    except CheckpointError as error:
        raise DataError(str(error)) from None
