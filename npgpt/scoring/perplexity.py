"""The perplexity of a text."""

import math
from dataclasses import dataclass

import numpy as np

from npgpt.gpt import GPT
from npgpt.scoring.losses import Progress, ignore, score
from npgpt.scoring.spans import Spans
from npgpt.scoring.statistics import Estimate, mean
from npgpt.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text. L is the sum of -log p over all tokens that it predicted.

    ==============  ==========================================================================================
    nats_per_token  L / tokens
    perplexity      exp(L / tokens): between how many tokens, all equally likely, it would be as undecided
    bits_per_token  L / (tokens log 2)
    bits_per_byte   L / (bytes log 2): unlike the others, it compares models with different tokenizers
    tokens, bytes   that it predicted; bytes are those of the text in UTF-8
    windows         that it saw. Standard errors take windows, not tokens, for independent
    ==============  ==========================================================================================
    """

    nats_per_token: Estimate
    perplexity: Estimate
    bits_per_token: Estimate
    bits_per_byte: Estimate
    tokens: int
    bytes: int
    windows: int

    @classmethod
    def of(cls, sums: np.ndarray, windows: Spans, token_bytes: np.ndarray) -> "Perplexity":
        """sums (W,), the losses of each window added up; token_bytes (V,), how many bytes each id stands for.

        >>> sums, one_window = np.array([3 * math.log(8)]), Spans.join([(np.array([0, 1, 1, 0]), 3)])
        >>> of_it = Perplexity.of(sums, one_window, np.array([1, 2]))  # the bytes of 1, 1, 0 are 2 + 2 + 1
        >>> round(of_it.perplexity.value, 9), round(of_it.bits_per_byte.value, 9)
        (8.0, 1.8)
        """
        targets = zip((windows.end - windows.scored).tolist(), windows.end.tolist(), strict=True)
        sizes = np.array([token_bytes[windows.tokens[begin:end]].sum() for begin, end in targets], np.int64)
        loss, bit = mean(sums, windows.scored), 1 / math.log(2)
        bits_per_byte = mean(sums, sizes).times(bit)
        return cls(
            loss, loss.exp(), loss.times(bit), bits_per_byte, windows.count, int(sizes.sum()), len(windows)
        )  # fmt: skip


def perplexity(
    model: GPT, windows: Spans, token_bytes: np.ndarray, batch_size: int = 8, progress: Progress = ignore
) -> Perplexity:
    """Measure a model on the windows of ``sliding_windows``, which must be at least one. Errors are those of ``score``.

    token_bytes     (V,), see ``token_sizes``
    """
    sums = np.zeros(len(windows))
    for span, losses, _ in score(model, windows, batch_size, progress):
        sums[span] = losses.sum()
    return Perplexity.of(sums, windows, token_bytes)


def token_sizes(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) how many bytes of UTF-8 each id stands for.

    >>> from npgpt.text.tokenizers import CharTokenizer
    >>> token_sizes(CharTokenizer("aé", has_end_of_text=False)).tolist()
    [1, 2]
    """
    return np.array([len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)], np.int64)
