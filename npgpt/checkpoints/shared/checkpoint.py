"""The checkpoint: every format is read to it, and written from it."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE, Finder, unknown
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError
from npgpt.text.tokenizers import Tokenizer

RELEASE_EVERY = 16 << 20  # bytes read, after which the files' pages are released


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint: what the model is, its weights, and where they came from."""

    format: str  # for people: "llm.c (float32)"
    config: GPTConfig
    tensors: dict[str, LazyTensor]  # under npgpt's names, matrices as (in, out)
    source: Path  # the file with the weights; of several, the one that names them
    files: tuple[MappedFile, ...] = ()  # those that the tensors are read from
    ignored_keys: tuple[str, ...] = ()  # what the files have besides the weights, as the format calls it
    find_tokenizer: Finder = field(default=unknown, repr=False)
    chat_template: str | None = None  # the place of one, a program in Jinja. npgpt neither runs nor writes it
    tokenizer_folder: Path | None = None  # where a tokenizer's files are, in a form that npgpt can't read of every kind

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, None if unknown. Raises CheckpointError if it is damaged, or has more ids than the model."""
        tokenizer = self.find_tokenizer()
        if tokenizer is not None and tokenizer.vocab_size > self.config.vocab_size:
            sizes = f"{tokenizer.vocab_size:,} ids, and the model {self.config.vocab_size:,}"
            raise CheckpointError(f"{self.source}: its tokenizer has {sizes}, so it is another model's")
        return tokenizer

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError as ``tokenizer`` does, and if it is unknown."""
        if self.tokenizer is None:
            if (folder := self.tokenizer_folder) is not None:
                raise CheckpointError(
                    f"{folder}: npgpt can't read its tokenizer, only byte-pair encodings that cut texts\n"
                    "as GPT-2's does, without words among the added tokens. In Python the model can be used with ids\n"
                    f"that another library makes: model = npgpt.load({str(folder)!r})"
                )
            raise CheckpointError(
                f"{self.source}: no tokenizer is known for its vocabulary of {self.config.vocab_size:,} ids:\n"
                f"put one beside it, as npgpt writes it (a run's tokenizer.json), with the name {OUR_TOKENIZER_FILE}"
            )
        return self.tokenizer

    def streaming(self) -> dict[str, LazyTensor]:
        """The tensors, for copying one after the other: pages already read are released, so few are in memory."""
        read = 0

        def counted(tensor):
            def read_rows(first, last):
                nonlocal read
                if read > RELEASE_EVERY:  # of earlier chunks; a caller that still holds one faults it in again
                    self.release_pages()
                    read = 0
                elements = tensor.read_rows(first, last)
                read += elements.nbytes
                return elements

            return replace(tensor, read_rows=read_rows)

        return {name: counted(tensor) for name, tensor in self.tensors.items()}

    def release_pages(self) -> None:
        """Release the files' pages in memory."""
        for file in self.files:
            file.release_pages()


def config_of(fields: dict, place: str, keys: dict[str, str] | None = None) -> GPTConfig:
    """A GPTConfig of these fields. Raises CheckpointError: ``place``, and the field by its key in the format."""
    try:
        return GPTConfig(**fields)
    except ConfigError as error:
        name, rest = str(error)[:300].split(" ", 1)  # cut, because it quotes the value, which may be a long one
        raise CheckpointError(f"{place} {(keys or {}).get(name, name)} {rest}") from None
