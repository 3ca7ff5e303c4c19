"""A run's data: the batches to train on in their order, and those to evaluate with."""

from typing import Any

import numpy as np

from npgpt.errors import ConfigError, DataError
from npgpt.text import tokenizer_name
from npgpt.text.batches import BatchSampler, TokenDataset, evaluation_batches
from npgpt.text.corpus import read_corpus, train_val_split
from npgpt.text.token_files import check_unchanged
from npgpt.text.tokenizers import Tokenizer
from npgpt.training.settings import TrainSettings


class TrainingData:
    """The text that the settings name, as batches of sequences of ``context`` tokens. Raises DataError."""

    def __init__(self, settings: TrainSettings, tokenizer: Tokenizer, context: int):
        self.settings = settings
        self.corpus = read_corpus(settings.texts, tokenizer)
        self.tokenizer = tokenizer
        by = settings.split_by or ("documents" if self.corpus.conversations else "tokens")
        self.train, self.validation = train_val_split(self.corpus, settings.val_fraction, by)
        answers = self._answers() if settings.loss_on == "assistant" else None
        self.answers = (None, None) if answers is None else np.split(answers, [len(self.train)])
        self.windows = TokenDataset(self.train, context, settings.stride, "training part", self.answers[0])
        self.batches = BatchSampler(self.windows, settings.batch_size, settings.seed)
        self.beginning = self._first_words(context)

    def micro_batches(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The batches whose gradients make a step, counted from 0: ``grad_accum`` of ids (B, T), targets (B, T).

        Raises DataError if a token file has been written to since the run began.
        """
        check_unchanged(self.corpus.stamps)
        n = self.settings.grad_accum
        return [self.batches.batch(n * step + i) for i in range(n)]

    def evaluation_splits(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """{"train": batches, "val": batches}, spread evenly over each part; no "val" without a validation part."""
        s, context = self.settings, self.windows.context
        parts = {
            "train": (self.train, "training part", self.answers[0]),
            "val": (self.validation, "validation part", self.answers[1]),
        }
        return {
            name: evaluation_batches(TokenDataset(tokens, context, None, part, answers), s.batch_size, s.eval_batches)
            for name, (tokens, part, answers) in parts.items()
            if tokens is not None
        }

    def describe(self, max_steps: int) -> str:
        """Lines for the log: how much text, how many sequences and steps; then what the user should look at."""
        s, corpus, held_out = self.settings, self.corpus, 0 if self.validation is None else len(self.validation)
        conversations = f"{corpus.conversations:,} conversations, " if corpus.conversations else ""
        characters = "" if corpus.characters is None else f"{corpus.characters:,} characters, "
        learned = "" if self.answers[0] is None else f", {np.count_nonzero(self.answers[0]):,} of them to learn"
        warnings = [*corpus.warnings, *self._unused_flags(), *few_ids(s.tokenizer, self.tokenizer)]
        validation = "" if self.validation is None else f" ({held_out:,} for validation)"
        return (
            f"text:  {conversations}{characters}{len(self.train) + held_out:,} tokens{validation}{learned}\n"
            f"       {len(self.windows):,} windows of {self.windows.context:,} tokens, "
            f"{len(self.windows) / (s.batch_size * s.grad_accum):,.1f} steps an epoch, {max_steps:,} steps"
            + "".join(f"\nwarning: {warning}" for warning in warnings)
        )

    def state_dict(self) -> dict[str, Any]:
        """What tells the text. The order of the batches is a function of the seed and the step."""
        return {"fingerprint": self.corpus.fingerprint, "train_tokens": len(self.train)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises DataError if the state is that of another text, or of another part of it to train on."""
        names = ", ".join(self.settings.texts)
        if state["fingerprint"] != self.corpus.fingerprint:
            raise DataError(f"{names}: the text is not the one that this run began with")
        if (before := state.get("train_tokens", len(self.train))) != len(self.train):  # older runs didn't say
            raise DataError(f"{names}: {len(self.train):,} tokens are to train on, and were {before:,} in this run")

    def _unused_flags(self):
        """A warning if flags say how to split tokens that came with a validation part of their own."""
        s = self.settings
        if self.corpus.validation is None or s.val_fraction == 0:  # 0 leaves that part out
            return []
        if s.split_by is None and s.val_fraction == TrainSettings.val_fraction:
            return []
        _, part = self.corpus.stamps  # train.bin and val.bin
        return [f"{part} is the validation part, whatever --val-fraction and --split-by say; only 0 leaves it out"]

    def _answers(self):
        corpus = self.corpus
        if corpus.answers is None or corpus.conversations < len(corpus.documents):
            problem = "--loss-on assistant needs conversations (.jsonl), and nothing else"
            raise ConfigError(f"{problem}: in other text nobody is an assistant")
        return corpus.answers

    def _first_words(self, context):
        """How samples begin: with the first question, up to the assistant's turn; else as the text does."""
        answers = self.corpus.answers
        if answers is not None and self.corpus.conversations == len(self.corpus.documents):
            question = self.train[: int(answers.argmax())]
            return self.tokenizer.decode(question.tolist()) if len(question) <= context // 2 else "Human:"
        return _first_characters(self.train, self.tokenizer)


def few_ids(asked: str | None, tokenizer: Tokenizer) -> list[str]:
    """A line if the text was too small for the tokenizer that was asked for, such as "bpe:4096"; else none."""
    size = 0 if asked is None else tokenizer_name(asked)[1]
    if tokenizer.vocab_size >= size:
        return []
    return [f"the tokenizer has {tokenizer.vocab_size:,} ids of {size:,}: no other pair of tokens is there twice"]


def _first_characters(tokens, tokenizer) -> str:
    """A document's first four tokens as text, without an incomplete last character."""
    decoder, text = tokenizer.decoder(), ""
    for id in tokens[:4].tolist():
        if id == tokenizer.end_of_text:
            break
        text += decoder.decode(id)
    return text
