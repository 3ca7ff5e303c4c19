"""The loss of a model on each token that is to be predicted."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from npgpt import kernels
from npgpt.gpt import GPT
from npgpt.layers import dropout_off
from npgpt.ops.linear_cross_entropy import ROWS
from npgpt.scoring.spans import Spans
from npgpt.tensor import Tensor, no_grad
from npgpt.text.batches import IGNORED

Progress = Callable[[int], object]  # is told how many more tokens are done


def ignore(tokens: int) -> None:
    """Progress that nobody watches."""


class Scored(NamedTuple):
    """The losses of one piece.

    span        its number
    losses      (n,) -log of the probability of each of its targets, in nats
    greedy      (n,) bool, whether the target is the likeliest token (the first one of several)
    """

    span: int
    losses: np.ndarray
    greedy: np.ndarray


def score(model: GPT, spans: Spans, batch_size: int = 8, progress: Progress = ignore) -> Iterator[Scored]:
    """Yield the losses of each piece, the longest pieces first.

    Raises FloatingPointError if a loss is NaN or infinite, ValueError if a piece has more than block_size + 1 tokens.

    >>> from npgpt.config import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> [(span, len(losses)) for span, losses, _ in score(model, Spans.join([(np.array([1, 2, 3]), 2)]))]
    [(0, 2)]
    """
    for batch in spans.batches(batch_size):
        losses, greedy, done = np.empty(len(batch.targets)), np.empty(len(batch.targets), bool), 0
        for logits in logit_blocks(model, batch.ids, batch.positions):
            block = slice(done, done + len(logits))
            losses[block], greedy[block] = token_losses(logits, batch.targets[block])
            done = block.stop
            del logits  # before the next ones are made
        progress(done)
        parts = (np.split(values, batch.bounds) for values in (losses, greedy))
        yield from map(Scored, batch.spans.tolist(), *parts)


def logit_blocks(model: GPT, ids: np.ndarray, positions: np.ndarray) -> Iterator[np.ndarray]:
    """ids (B, T), positions (N,) of rows of (B * T,) -> their logits, in blocks (n, V) of at most ROWS rows.

    All N rows at once would be the largest array by far: those of 8 windows of 1,024 tokens take 1.6 GB for GPT-2.
    """
    rows = _hidden_rows(model, ids, positions)
    for begin in range(0, len(rows), ROWS):
        with no_grad():
            logits = model.logits(Tensor(rows[begin : begin + ROWS])).data
        yield logits


@no_grad()
def _hidden_rows(model, ids, positions):
    """What the vocabulary head reads at these positions, (N, C), with dropout off."""
    with dropout_off():
        hidden = model.hidden_states(ids).data
    return hidden.reshape(-1, hidden.shape[-1])[positions]


def token_losses(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """logits (n, V), targets (n,) -> losses (n,) in nats, whether the target is the likeliest token (n,)

    Raises FloatingPointError if a loss is not finite.
    """
    losses, _, _ = kernels.cross_entropy_forward(logits, targets, IGNORED)
    if not np.isfinite(losses).all():
        raise FloatingPointError("the model's losses are not finite: its weights are damaged or have diverged")
    return losses, logits.argmax(axis=-1) == targets
