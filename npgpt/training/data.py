"""A run's data: the batches to train on in their order, and those to evaluate with."""

from typing import Any

import numpy as np

from npgpt.errors import DataError
from npgpt.text.batches import BatchSampler, TokenDataset, evaluation_batches
from npgpt.text.corpus import read_corpus, train_val_split
from npgpt.text.tokenizers import Tokenizer
from npgpt.training.settings import TrainSettings


class TrainingData:
    """The text that the settings name, as batches of sequences of ``context`` tokens. Raises DataError."""

    def __init__(self, settings: TrainSettings, tokenizer: Tokenizer, context: int):
        self.settings = settings
        self.corpus = read_corpus(settings.texts, tokenizer)
        self.train, self.validation = train_val_split(self.corpus, settings.val_fraction, settings.split_by)
        self.windows = TokenDataset(self.train, context, settings.stride, "training part")
        self.batches = BatchSampler(self.windows, settings.batch_size, settings.seed)
        self.beginning = _first_characters(self.train, tokenizer)

    def micro_batches(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The batches whose gradients make a step, counted from 0: ``grad_accum`` of ids (B, T), targets (B, T)."""
        n = self.settings.grad_accum
        return [self.batches.batch(n * step + i) for i in range(n)]

    def evaluation_splits(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """{"train": batches, "val": batches}, spread evenly over each part; no "val" without a validation part."""
        s, context = self.settings, self.windows.context
        parts = {"train": (self.train, "training part"), "val": (self.validation, "validation part")}
        return {
            name: evaluation_batches(TokenDataset(tokens, context, part=part), s.batch_size, s.eval_batches)
            for name, (tokens, part) in parts.items()
            if tokens is not None
        }

    def describe(self, max_steps: int) -> str:
        """Two lines for the log: how much text, how many sequences and steps."""
        s, corpus, held_out = self.settings, self.corpus, 0 if self.validation is None else len(self.validation)
        characters = "" if corpus.characters is None else f"{corpus.characters:,} characters, "
        validation = "" if self.validation is None else f" ({held_out:,} for validation)"
        return (
            f"text:  {characters}{len(self.train) + held_out:,} tokens{validation}\n"
            f"       {len(self.windows):,} windows of {self.windows.context:,} tokens, "
            f"{len(self.windows) / (s.batch_size * s.grad_accum):,.1f} steps an epoch, {max_steps:,} steps"
        )

    def state_dict(self) -> dict[str, Any]:
        """What tells the text. The order of the batches is a function of the seed and the step."""
        return {"fingerprint": self.corpus.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError if the state is that of another text."""
        if state["fingerprint"] != self.corpus.fingerprint:
            raise DataError(f"{', '.join(self.settings.texts)}: the text is not the one that this run began with")


def _first_characters(tokens, tokenizer) -> str:
    """A document's first four tokens as text, without an incomplete last character."""
    decoder, text = tokenizer.decoder(), ""
    for id in tokens[:4].tolist():
        if id == tokenizer.end_of_text:
            break
        text += decoder.decode(id)
    return text
