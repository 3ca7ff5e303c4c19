"""Prediction of a passage's last word, as in LAMBADA (Paperno et al. 2016, "The LAMBADA dataset").

A line is {"text": ...}. The text is split at its last space: a space and the last word are to be predicted from what
comes before them. A word is right if each of its tokens is the likeliest one; its loss is the sum of theirs.

That is ``lambada_openai`` of lm-evaluation-harness (EleutherAI/lm-evaluation-harness, lm_eval/tasks/lambada), on the
file that OpenAI published with GPT-2, lambada_test.jsonl (5,153 passages, 1,819,752 bytes). The harness has gpt2 (124M)
at accuracy 0.3256 and perplexity 40.06 (its issue 2159). GPT-2's paper (Radford et al. 2019, table 3) has 0.4599 and
35.13, from another method: only the last token was to be predicted, which may be a part of the word
(github.com/openai/gpt-2/issues/131).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npgpt.gpt import GPT
from npgpt.scoring.examples import read_examples
from npgpt.scoring.losses import Progress, ignore, score
from npgpt.scoring.spans import Spans
from npgpt.scoring.statistics import Estimate, mean
from npgpt.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class LastWords:
    """accuracy: the part of words that are right; perplexity: exp of nats_per_word, the mean loss of a word."""

    accuracy: Estimate
    perplexity: Estimate
    nats_per_word: Estimate
    examples: int


def read_last_words(path: str | Path, tokenizer: Tokenizer, context: int, limit: int | None = None) -> Spans:
    """A file's passages, at most ``limit``, each with its last word to be predicted. Raises DataError.

    context     tokens that the model sees at once; of a longer passage, the last ones stay
    """
    pieces = []
    for example in read_examples(path, limit):
        text = example.text("text")
        before, _, word = text.rpartition(" ")
        if not word.strip():
            raise example.error(f"no last word: the text {f'ends in {text[-1]!r}' if text else 'is empty'}")
        pieces.append(example.encode(tokenizer, before, f" {word}", context))
    return Spans.join(pieces)


def last_words(model: GPT, words: Spans, batch_size: int = 8, progress: Progress = ignore) -> LastWords:
    """Measure a model on the words of ``read_last_words``. Errors are those of ``score``."""
    losses, right = np.zeros((2, len(words)))
    for span, of_tokens, greedy in score(model, words, batch_size, progress):
        losses[span], right[span] = of_tokens.sum(), greedy.all()
    loss = mean(losses)
    return LastWords(mean(right), loss.exp(), loss, len(words))
