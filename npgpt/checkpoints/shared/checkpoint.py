"""What every format is read to, and written from."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError, TokenizerError
from npgpt.text.tokenizers import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

RELEASE_EVERY = 16 << 20  # bytes read, after which the files' pages are let go of
MAX_TOKENIZER_BYTES = 20_000_000  # with every character that there is, a character tokenizer takes 13 million


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint: what the model is, its weights, and where they came from."""

    format: str  # for people: "llm.c (float32)"
    config: GPTConfig
    tensors: dict[str, LazyTensor]  # under npgpt's names, matrices as (in, out)
    source: Path  # the file with the weights; of several, the one that names them
    files: tuple[MappedFile, ...] = ()  # those that the tensors are read from
    ignored_keys: tuple[str, ...] = ()  # what is there besides the weights, as the format calls it
    # The file that ``save_tokenizer`` wrote, what is in such a file, or what finds the tokenizer when it is asked for.
    stored_tokenizer: Path | dict | Callable[[], Tokenizer | None] | None = field(default=None, repr=False)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer saved with the weights; else GPT-2's, if the vocabulary has its size; else None.

        None too if another one than ours is saved. Raises TokenizerError if the saved file is damaged, CheckpointError
        if what is saved with the weights is, or has ids that the model doesn't.
        """
        stored = self.stored_tokenizer
        if stored is None:
            return GPT2Tokenizer() if self.config.vocab_size == 50257 else None
        if callable(stored):
            return stored()
        is_inside = isinstance(stored, dict)
        values = stored if is_inside else _read_tokenizer(stored)
        place, kind = (self.source, CheckpointError) if is_inside else (stored, TokenizerError)
        try:
            tokenizer = tokenizer_from_dict(values)
        except TokenizerError as error:
            raise kind(f"{place}: {error}") from None
        if tokenizer.vocab_size > self.config.vocab_size:
            raise CheckpointError(
                f"{place}: {tokenizer.vocab_size:,} ids, and the model has {self.config.vocab_size:,}, "
                f"so it is another model's tokenizer"
            )
        return tokenizer

    def streaming(self) -> dict[str, LazyTensor]:
        """The tensors, for reading them one after the other: the files' pages are let go of on the way.

        So whoever copies all of them has few bytes of the files in memory beside the copies.
        """
        read = 0

        def counted(tensor):
            def read_rows(first, last):
                nonlocal read
                if read > RELEASE_EVERY:  # of pieces before this one; who still has one only reads it again
                    self.release_pages()
                    read = 0
                numbers = tensor.read_rows(first, last)
                read += numbers.nbytes
                return numbers

            return replace(tensor, read_rows=read_rows)

        return {name: counted(tensor) for name, tensor in self.tensors.items()}

    def release_pages(self) -> None:
        """Let go of the files' pages in memory."""
        for file in self.files:
            file.release_pages()


def config_of(fields: dict, place: str, keys: dict[str, str] | None = None) -> GPTConfig:
    """A GPTConfig of these fields. Raises CheckpointError: ``place``, and the field by its key in the format."""
    try:
        return GPTConfig(**fields)
    except ConfigError as error:
        name, rest = str(error)[:300].split(" ", 1)  # cut, because it quotes the value, which may be a long one
        raise CheckpointError(f"{place} {(keys or {}).get(name, name)} {rest}") from None


def _read_tokenizer(path: Path) -> dict:
    try:
        return read_json_object(path, MAX_TOKENIZER_BYTES)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
