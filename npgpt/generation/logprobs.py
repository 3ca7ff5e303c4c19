"""What the model itself says of a token: its log-probability, and those of the likeliest tokens."""

from dataclasses import dataclass

import numpy as np

from npgpt.generation.filters import log_softmax, top_k
from npgpt.generation.token import Token


@dataclass(frozen=True)
class TokenLogprobs:
    """One token of a text.

    id          the token
    logprob     log p(id | all before it), the natural logarithm
    top         (id, logprob) of the likeliest tokens in its place, the likeliest first; ``id`` may be one of them

    It is the model's own p, the softmax of its logits, whatever penalties, temperature and filters the token was chosen
    with: their sum is the text's log-likelihood, and its mean, negated, what a loss or perplexity is made of. That is
    what vLLM returns unless told otherwise ("raw_logprobs"). How likely the choice was is ``Sampling.distribution``'s
    answer.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(logits: np.ndarray, id: int, top: int = 0) -> TokenLogprobs:
    """logits (V,) and the id that was chosen -> its log-probability, and those of the ``top`` likeliest ids.

    Of ids that are equally likely the first come first; if ``top`` is larger than V, all come.

    >>> logits = np.log([0.5, 0.125, 0.25, 0.125]) + 3
    >>> found = token_logprobs(logits, 1, top=2)
    >>> round(found.logprob, 3), [(id, round(logprob, 3)) for id, logprob in found.top]
    (-2.079, [(0, -0.693), (2, -1.386)])
    """
    logprobs = log_softmax(logits)
    likeliest = np.empty(0, np.int64)
    if top:
        kept = top_k(logprobs, top)
        likeliest = kept[np.argsort(-logprobs[kept], kind="stable")[:top]]
    return TokenLogprobs(int(id), float(logprobs[id]), tuple((int(i), float(logprobs[i])) for i in likeliest))


def new_token(row: int, id: int, logits: np.ndarray, logprobs: int | None) -> Token:
    """The token ``id`` of the text ``row``, drawn from logits (V,), with what is to be told of it (``Token``)."""
    if logprobs is None:
        return Token(row, id)
    found = token_logprobs(logits, id, logprobs)
    return Token(row, id, found.logprob, found.top)
