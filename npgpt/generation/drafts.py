"""Drafts for speculative decoding: who proposes the next tokens. ``speculation`` says what becomes of them."""

from dataclasses import dataclass

import numpy as np

from npgpt.errors import ConfigError
from npgpt.generation.decoder import Decoder
from npgpt.gpt import GPT


@dataclass(frozen=True)
class PromptLookup:
    """A draft that costs nothing: what followed when the text's last ids came before (Saxena 2023, prompt lookup).

    ngram   look for the last so many ids; where they never came before, for fewer, down to one

    It pays where a text repeats parts of itself or of its prompt: summaries, edits, code.

    >>> PromptLookup(ngram=2).propose(np.array([5, 6, 7, 8, 5, 6]), most=3)
    array([7, 8, 5])
    """

    ngram: int = 3

    def __post_init__(self):
        if self.ngram < 1:
            raise ConfigError(f"ngram must be at least 1, not {self.ngram}")

    def propose(self, ids: np.ndarray, most: int) -> np.ndarray:
        """ids (T,) of the text -> ids (k,) that may follow: ``most`` of them, or none if nothing is found."""
        for n in range(min(self.ngram, len(ids) - 1), 0, -1):
            earlier = np.lib.stride_tricks.sliding_window_view(ids[:-1], n)
            found = np.flatnonzero((earlier == ids[-n:]).all(axis=1))
            if len(found):
                following = ids[found[-1] + n :]
                return np.resize(following, most)  # at the text's end what follows is what is proposed: it repeats
        return ids[:0]


class DraftModel:
    """A small model that proposes tokens for one text. When its block_size is full, it begins again with half of it."""

    def __init__(self, model: GPT | Decoder):
        self._decoder = Decoder.of(model)
        self.vocab_size = self._decoder.config.vocab_size
        self._cache = self._decoder.new_cache()
        self._first = 0  # the place in the text of what the cache begins with

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """ids (T,), the whole text -> logits (V,) after it. Only what is new since the last call is computed."""
        block_size = self._decoder.config.block_size
        if len(ids) - self._first > block_size:
            self._first, self._cache.lengths[0] = len(ids) - max(block_size // 2, 1), 0
        new = ids[self._first + self._cache.lengths[0] :]
        if len(new) == 1:
            return self._decoder.step(new, self._cache, [0])[0]
        return self._decoder.prefill([new], self._cache, [0])[0]

    def go_back(self, length: int) -> None:
        """Forget all but the first ``length`` ids of the text."""
        self._first = min(self._first, length)
        self._cache.lengths[0] = min(self._cache.lengths[0], length - self._first)
