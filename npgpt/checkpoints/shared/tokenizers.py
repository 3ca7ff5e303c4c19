"""A checkpoint's tokenizer: in a file beside the weights, inside their file, or known from the vocabulary's size.

``by_size`` and ``beside`` give a ``Finder``, which finds the tokenizer, or None if what the ids mean is unknown.
"""

from collections.abc import Callable
from pathlib import Path

from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text.tokenizers import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

Finder = Callable[[], Tokenizer | None]

OUR_TOKENIZER_FILE = "npgpt_tokenizer.json"  # beside other programs' files
MAX_TOKENIZER_BYTES = 20_000_000  # with every character that there is, a character tokenizer takes 13 million


def unknown() -> None:
    """For ids of another tokenizer than ours, whatever the vocabulary's size."""


def by_size(vocab_size: int) -> Finder:
    """GPT-2's, if the vocabulary has its size.

    >>> by_size(257)() is None
    True
    """
    return lambda: GPT2Tokenizer() if vocab_size == 50257 else None


def stored(values: dict, place: str) -> Tokenizer:
    """The one that ``to_dict`` gave these values for. ``place`` begins the CheckpointError if they are no tokenizer."""
    try:
        return tokenizer_from_dict(values)
    except TokenizerError as error:
        raise CheckpointError(f"{place}: {error}") from None


def beside(weights: Path, otherwise: Finder, *names: str) -> Finder:
    """The one in the first of the files ``names`` and OUR_TOKENIZER_FILE that is in the weights' folder."""
    for path in map(weights.with_name, (*names, OUR_TOKENIZER_FILE)):
        if path.exists():
            return lambda: read_tokenizer(path)
    return otherwise


def read_tokenizer(path: Path) -> Tokenizer:
    """One that train or prepare wrote. Raises CheckpointError, also if the file is too large to be one."""
    return stored(read_json_object(path, MAX_TOKENIZER_BYTES), str(path))
