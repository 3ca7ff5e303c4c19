"""How far the distributions of two models are apart, over a text: what quantised weights lose, say."""

from dataclasses import dataclass

import numpy as np

from npgpt.generation.filters import log_softmax
from npgpt.gpt import GPT
from npgpt.scoring.losses import Progress, ignore, logit_blocks, token_losses
from npgpt.scoring.perplexity import Perplexity
from npgpt.scoring.spans import Spans
from npgpt.scoring.statistics import Estimate, mean

_ROWS = 16  # at a time: the arrays of float64 then take some 20 MB for GPT-2's vocabulary


@dataclass(frozen=True)
class Divergence:
    """A model against a reference, on the same tokens.

    ==================  ======================================================================================
    nats_per_token      of the reference
    perplexity          of the reference
    nats_more           the model's nats a token minus the reference's. Its error is that of the differences, which
                        is far smaller than those of the two losses: both models find the same windows hard
    kl_divergence       the mean of KL(P || Q) in nats a token; P is the reference's distribution, Q the model's
    same_likeliest      the part of the tokens at which both have the same likeliest token
    ==================  ======================================================================================
    """

    nats_per_token: Estimate
    perplexity: Estimate
    nats_more: Estimate
    kl_divergence: Estimate
    same_likeliest: Estimate


def compare(
    model: GPT,
    reference: GPT,
    windows: Spans,
    token_bytes: np.ndarray,
    batch_size: int = 8,
    progress: Progress = ignore,
) -> tuple[Perplexity, Divergence]:
    """Measure a model, as ``perplexity`` does, and its divergence from a reference with the same vocabulary."""
    model_sums, reference_sums, kl_sums, same_sums = np.zeros((4, len(windows)))
    for batch in windows.batches(batch_size):
        values = np.empty((4, len(batch.targets)))
        others, done = logit_blocks(reference, batch.ids, batch.positions), 0
        for q in logit_blocks(model, batch.ids, batch.positions):
            p = next(others)
            block = slice(done, done + len(q))
            values[0, block], _ = token_losses(q, batch.targets[block])
            values[1, block], _ = token_losses(p, batch.targets[block])
            values[2, block] = kl_divergence(p, q)
            values[3, block] = p.argmax(axis=-1) == q.argmax(axis=-1)
            done = block.stop
            del p, q  # before the next ones are made
        progress(done)
        starts = np.concatenate([[0], batch.bounds])
        sums = np.add.reduceat(values, starts, axis=1)
        for result, of_batch in zip((model_sums, reference_sums, kl_sums, same_sums), sums, strict=True):
            result[batch.spans] = of_batch
    loss = mean(reference_sums, windows.scored)
    differences = (mean(of, windows.scored) for of in (model_sums - reference_sums, kl_sums, same_sums))
    return Perplexity.of(model_sums, windows, token_bytes), Divergence(loss, loss.exp(), *differences)


def kl_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(P || Q) = sum_j P_j (log P_j - log Q_j) of each row, in nats.

    p, q (n, V), logits or log-probabilities of P and Q -> (n,) float64. A P_j of 0 adds nothing. Float64 and a few rows
    at a time: for weights that were merely rounded the terms nearly cancel, and float32's error would be larger than
    their sum.

    >>> kl_divergence(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])).round(4)  # log(4 / 3) / 2
    array([0.1438])
    """
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"two arrays (n, V) of one shape are needed, not {p.shape} and {q.shape}")
    result = np.empty(len(p))
    for begin in range(0, len(p), _ROWS):
        block = slice(begin, begin + _ROWS)
        log_p, log_q = log_softmax(p[block]), log_softmax(q[block])
        probabilities = np.exp(log_p)
        with np.errstate(invalid="ignore"):  # 0 times infinity
            terms = probabilities * (log_p - log_q)
        terms[probabilities == 0] = 0
        result[block] = terms.sum(axis=-1)
    return result
