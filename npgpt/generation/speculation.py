"""Speculative decoding: a cheap draft proposes several tokens, and the model checks all of them in one pass.

One pass over a few positions reads the weights once, as a pass over one position does, and reading them is what takes
the time. So each accepted token saves nearly a whole pass. What comes out is distributed exactly as without a draft,
however bad that is (Leviathan, Kalman & Matias 2023, "Fast Inference from Transformers via Speculative Decoding",
section 2.3 and appendix A.1; Chen et al. 2023, "Accelerating Large Language Model Decoding with Speculative Sampling"):

    The draft draws x from q.  Accept it with probability min(1, p(x) / q(x)).
    If it is not accepted, draw from p' = max(0, p - q) / sum(max(0, p - q)) instead, and forget what was drafted after.

    P(x comes out) = q(x) min(1, p(x) / q(x)) + P(not accepted) p'(x)
                   = min(q(x), p(x)) + (1 - sum(min(q, p))) max(0, p(x) - q(x)) / sum(max(0, p - q))
                   = min(q(x), p(x)) + max(0, p(x) - q(x)) = p(x),      as sum(max(0, p - q)) = 1 - sum(min(q, p))

p and q are the distributions after all rules of ``Sampling``, each with the text that the position has before it. A
greedy p has one token only, so the accepted tokens are the plain loop's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from npgpt.errors import ConfigError
from npgpt.generation.constraints import Constraint
from npgpt.generation.decoder import Decoder
from npgpt.generation.sampling import History, Sampling


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


def speculate(
    decoder: Decoder,
    draft: Decoder | PromptLookup,
    ids: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop_ids: Iterable[int] = (),
    drafted: int = 4,
    constraint: Constraint | None = None,
) -> "Speculation":
    """Continue one text, ids (T,) -> an iterator of its next tokens. It counts how many drafted tokens were accepted.

    draft           a small model with the same vocabulary, or ``PromptLookup()``
    max_new_tokens  so many at most; a stop id ends the text earlier, and is its last token
    sampling, seed  as in ``stream``
    drafted         the most tokens that are proposed at a time
    constraint      what the new text must match; it is left as it is

    Greedy text is the plain loop's, but for rounding: a pass over several positions may round the last digit otherwise
    than one over each alone. With ``PromptLookup`` drawn text is the plain loop's too, with the same seed, as one
    number is drawn for each token. With a draft model it is another text from the same distribution.

    A text that outgrows the model's block_size goes on in plain steps, one token a pass, since each token then moves
    all others to new positions. A draft model with a smaller block_size begins again with the last half of it.

    Raises ConfigError if the vocabularies differ or ``drafted`` is below 1, ValueError if there is no id to begin with.

    >>> from npgpt import GPT, GPTConfig
    >>> decoder = Decoder(GPT(GPTConfig(vocab_size=5, block_size=16, n_layer=1, n_head=1, n_embd=2), seed=0))
    >>> text = speculate(decoder, decoder, [1, 2], max_new_tokens=6, sampling=Sampling(temperature=0))
    >>> len(list(text)), text.passes, text.acceptance_rate
    (6, 2, 1.0)
    """
    return Speculation(decoder, draft, ids, max_new_tokens, sampling, seed, stop_ids, drafted, constraint)


class Speculation(Iterator[int]):
    """The tokens of ``speculate``, one after the other, and what the draft was good for.

    ===========  =====================================================================================
    proposed     tokens that the draft has proposed so far
    accepted     of which so many became part of the text
    passes       of the model, after the prompt's: with a draft that pays, far fewer than there are tokens
    plain_steps  those of the passes that were made since the text has outgrown the block_size
    ===========  =====================================================================================
    """

    def __init__(self, decoder, draft, ids, max_new_tokens, sampling, seed, stop_ids, drafted, constraint):
        ids = np.asarray(ids)
        if ids.ndim != 1 or len(ids) == 0:
            raise ValueError(f"ids must have shape (T,) with at least one token, not {ids.shape}")
        if drafted < 1:
            raise ConfigError(f"drafted must be at least 1, not {drafted}")
        looks_up = isinstance(draft, PromptLookup)
        if not looks_up and draft.config.vocab_size != decoder.config.vocab_size:
            raise ConfigError(
                f"the draft has a vocabulary of {draft.config.vocab_size:,} tokens and the model one of "
                f"{decoder.config.vocab_size:,}: a draft needs the same tokenizer as the model"
            )
        self.proposed = self.accepted = self.passes = self.plain_steps = 0
        self._decoder, self._cache = decoder, decoder.new_cache()
        self._draft = draft if looks_up else _DraftModel(draft)
        self._ids, self._prompt_length = ids, len(ids)
        self._sampling, self._rng = sampling or Sampling(), np.random.default_rng(seed)
        self._stop_ids = frozenset(stop_ids)
        self._constraint = constraint and constraint.copy()
        self._drafted = self._most = drafted
        self._tokens = self._run(max_new_tokens)

    def __next__(self) -> int:
        return next(self._tokens)

    @property
    def acceptance_rate(self) -> float:
        """The share of the proposed tokens that were accepted; 0 if there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0

    def _run(self, max_new_tokens):
        end = self._prompt_length + max_new_tokens
        while len(self._ids) < end and not self._ended():
            room = min(end - 1, self._decoder.config.block_size) - len(self._ids)  # the model adds a token itself
            proposal, q = self._propose(min(self._most, room))
            logits = self._logits(proposal)
            for i in range(len(proposal) + 1):
                history = self._history(self._ids, self._constraint)
                if i < len(q):
                    p = self._sampling.distribution(logits[i], history)
                    id = accept_or_redraw(int(proposal[i]), p, q[i], self._rng)
                else:
                    id = self._sampling.next_token(logits[i], history, self._rng)
                agrees = i < len(proposal) and id == proposal[i]
                self.accepted += agrees
                self._append(id)
                yield id
                if not agrees or self._ended():
                    break
            self._adapt(len(proposal), i)

    def _propose(self, most):
        """-> ids (k,), their distributions (k, V): none if the draft doesn't draw its tokens"""
        if most < 1:
            return self._ids[:0], []
        if isinstance(self._draft, PromptLookup):
            proposal, q = self._draft.propose(self._ids, most), []
        else:
            proposal, q = self._draw_from_draft(most)
        self.proposed += len(proposal)
        return proposal, q

    def _draw_from_draft(self, most):
        ids, constraint, q = self._ids, self._constraint and self._constraint.copy(), []
        while len(q) < most:
            q.append(self._sampling.distribution(self._draft.logits(ids), self._history(ids, constraint)))
            id = draw(q[-1], self._rng)
            ids = np.append(ids, id)
            if constraint:
                constraint.push(id)
            if id in self._stop_ids or (constraint and constraint.finished):
                break
        return ids[len(self._ids) :], q

    def _logits(self, proposal):
        """k proposed ids -> logits (k + 1, V): after the text, and after each of them"""
        self.passes += 1
        block_size = self._decoder.config.block_size
        if len(self._ids) > block_size:  # the window slides, and nothing that was computed is of use
            self.plain_steps += 1
            return self._decoder.prefill([self._ids[-block_size:]])
        if self.passes == 1 and len(self._ids) > 1:
            self._decoder.prefill([self._ids[:-1]], self._cache, [0])
        self._cache.lengths[0] = len(self._ids) - 1
        return self._decoder.extend(np.append(self._ids[-1:], proposal), self._cache, 0)

    def _history(self, ids, constraint):
        allowed = constraint.allowed() if constraint else None
        return History(ids, self._prompt_length, self._stop_ids, allowed)

    def _append(self, id):
        self._ids = np.append(self._ids, id)
        if self._constraint:
            self._constraint.push(id)

    def _ended(self):
        if self._constraint and self._constraint.finished:
            return True
        return len(self._ids) > self._prompt_length and int(self._ids[-1]) in self._stop_ids

    def _adapt(self, proposed, accepted):
        """Let a draft model propose two tokens more where all were accepted, else one fewer.

        Source: transformers' schedule "heuristic" of ``num_assistant_tokens``. Looking up costs nothing either way.
        """
        if proposed and isinstance(self._draft, _DraftModel):
            self._draft.go_back(len(self._ids) - 1)
            change = 2 if accepted == proposed else -1
            self._most = min(max(self._most + change, 1), self._drafted)


def accept_or_redraw(id: int, p: np.ndarray, q: np.ndarray, rng: np.random.Generator) -> int:
    """An id drawn from q (V,) -> one that is distributed as p (V,): the same, or another.

    >>> p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])
    >>> accept_or_redraw(1, p, q, np.random.default_rng(0)), accept_or_redraw(2, p, q, np.random.default_rng(0))
    (1, 0)
    """
    if rng.random() * q[id] < p[id]:
        return id
    more = np.maximum(p - q, 0)
    return draw(more if more.any() else p, rng)  # p = q but for rounding leaves nothing


def draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """One index of weights (V,), as likely as its weight is large."""
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


class _DraftModel:
    """A model that proposes tokens. Its cache holds the text from ``first`` on, as far as it has seen it."""

    def __init__(self, decoder):
        self._decoder, self._cache, self._first = decoder, decoder.new_cache(), 0

    def logits(self, ids):
        """ids (T,) of a text, those that the cache holds included -> logits (V,) after the last"""
        block_size = self._decoder.config.block_size
        if len(ids) - self._first > block_size:
            self._first, self._cache.lengths[0] = len(ids) - max(block_size // 2, 1), 0
        new = ids[self._first + self._cache.lengths[0] :]
        return self._decoder.prefill([new], self._cache, [0])[0]

    def go_back(self, length):
        """Forget what comes after the text's first ``length`` ids."""
        self._first = min(self._first, length)
        self._cache.lengths[0] = min(self._cache.lengths[0], length - self._first)
