"""What every format is read to, and written from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from npgpt.checkpoints.mapped import MappedFile
from npgpt.checkpoints.stored import Stored
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.tokenizers import GPT2Tokenizer, Tokenizer, load_tokenizer, tokenizer_from_dict


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint: what the model is, its weights, and where they came from."""

    format: str  # for people: "llm.c (float32)"
    config: GPTConfig
    tensors: dict[str, Stored]  # under npgpt's names, matrices as (in, out)
    source: Path  # the file with the weights; of several, the one that names them
    files: tuple[MappedFile, ...] = ()  # those that the tensors are read from
    skipped: tuple[str, ...] = ()  # what is there besides the weights, as the format calls it
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
        try:
            tokenizer = tokenizer_from_dict(stored) if isinstance(stored, dict) else load_tokenizer(stored)
        except TokenizerError as error:
            if isinstance(stored, dict):
                raise CheckpointError(f"{self.source}: {error}") from None
            raise
        if tokenizer.vocab_size > self.config.vocab_size:
            raise CheckpointError(
                f"{self.source if isinstance(stored, dict) else stored}: {tokenizer.vocab_size:,} ids, and the model "
                f"has {self.config.vocab_size:,}, so it is another model's tokenizer"
            )
        return tokenizer

    def forget(self) -> None:
        """Let go of the files' pages in memory."""
        for file in self.files:
            file.forget()
