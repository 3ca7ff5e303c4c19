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

p and q are the distributions after all rules of ``Sampling``, each given the text before its position. A greedy p has
one token only, so the accepted tokens are the plain loop's.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from math import inf
from operator import index

import numpy as np
from numpy.typing import ArrayLike

from npgpt.errors import ConfigError
from npgpt.generation.decoder import Decoder
from npgpt.generation.drafts import DraftModel, PromptLookup
from npgpt.generation.logprobs import new_token
from npgpt.generation.sampling import Sampling, draw
from npgpt.generation.text_in_progress import Constraint, TextInProgress, check_limits
from npgpt.generation.token import Token
from npgpt.gpt import GPT
from npgpt.ops.embedding import check_ids


def speculate(
    model: GPT | Decoder,
    draft: GPT | Decoder | PromptLookup,
    ids: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop_ids: Iterable[int] = (),
    drafted: int = 4,
    *,
    stop_if: Callable[[Token], bool] | None = None,
    max_seconds: float | None = None,
    logprobs: int | None = None,
    constraint: Constraint | None = None,
) -> "Speculation":
    """Continue one text, ids (T,) -> an iterator over its tokens. It counts how many drafted tokens are accepted.

    draft       a small model with the same vocabulary, or ``PromptLookup()``
    drafted     so many tokens are proposed at a time, at most
    The others are those of ``stream``.

    Greedy text is that of ``stream``, but for rounding: a pass over several positions may round otherwise than one
    over each. With ``PromptLookup`` text that is drawn is that of ``stream`` too, with the same seed, as each token
    takes one random number. With a draft model it is another text from the same distribution.

    A text that outgrows the model's block_size goes on in plain steps, one token a pass, because each token then moves
    all others to new positions. A draft model whose block_size is full begins again with the last half of it.

    Raises ConfigError if the vocabularies differ or ``drafted`` is below 1, and what ``stream`` raises.

    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=16, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> tokens = speculate(model, model, [1, 2], max_new_tokens=10, sampling=Sampling(temperature=0))
    >>> len(list(tokens)), tokens.passes, tokens.acceptance_rate
    (10, 2, 1.0)
    """
    return Speculation(
        model, draft, ids, max_new_tokens, sampling or Sampling(), seed, stop_ids, drafted,
        stop_if, inf if max_seconds is None else max_seconds, logprobs, constraint,
    )  # fmt: skip


class Speculation(Iterator[Token]):
    """The tokens of ``speculate``, one after the other, and what the draft was good for.

    ===========  =====================================================================================
    tokens       so many have been made
    proposed     tokens that the draft has proposed
    accepted     of which so many became part of the text
    passes       of the model, after the prompt's: with a draft that pays, far fewer than there are tokens
    plain_steps  those of the passes that were made since the text has outgrown the block_size
    ===========  =====================================================================================
    """

    def __init__(
        self, model, draft, ids, max_new_tokens, sampling, seed, stop_ids, drafted,
        stop_if, max_seconds, logprobs, constraint,
    ):  # fmt: skip
        self._decoder = Decoder.of(model)
        self._draft = draft if isinstance(draft, PromptLookup) else DraftModel(draft)
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.size == 0:
            raise ValueError(f"ids must have shape (T,) with at least one token, not {ids.shape}")
        check_ids(ids, self._decoder.config.vocab_size)
        check_limits(max_seconds, max_new_tokens=(max_new_tokens, 0), drafted=(drafted, 1), logprobs=(logprobs, 0))
        V = self._decoder.config.vocab_size
        if isinstance(self._draft, DraftModel) and self._draft.vocab_size != V:
            raise ConfigError(
                f"the draft has a vocabulary of {self._draft.vocab_size:,} tokens, and the model one of {V:,}:\n"
                "a draft model needs the same tokenizer as the model"
            )
        self.tokens = self.proposed = self.accepted = self.passes = self.plain_steps = 0
        self._cache, self._sampling, rng = self._decoder.new_cache(), sampling, np.random.default_rng(seed)
        self._text = TextInProgress(0, ids, frozenset(map(index, stop_ids)), rng, constraint and constraint.copy())
        self._most = self._most_now = drafted  # tokens to propose at a time; _adapt changes the second
        self._run = self._generate(max_new_tokens, stop_if, max_seconds, logprobs)

    def __next__(self) -> Token:
        return next(self._run)

    @property
    def acceptance_rate(self) -> float:
        """The share of the proposed tokens that were accepted; 0 if there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0

    def summary(self) -> str:
        """One line that says whether the draft pays."""
        line = f"{self.accepted:,} of {self.proposed:,} drafted tokens accepted ({self.acceptance_rate:.0%})"
        line += f"; {self.tokens / max(self.passes, 1):.2f} tokens a pass"
        past = f"; {self.plain_steps:,} tokens past the context of {self._decoder.config.block_size:,} without a draft"
        return line + past if self.plain_steps else line

    def _generate(self, max_new_tokens, stop_if, max_seconds, logprobs):
        deadline = time.monotonic() + max_seconds
        ended = "length" if max_new_tokens == 0 else None
        while not ended:
            # The model adds a token to those that are proposed, and all have to fit.
            room = min(max_new_tokens - self.tokens - 1, self._decoder.config.block_size - self._text.length)
            proposal, q = self._propose(min(self._most_now, room))
            logits = self._logits(proposal)
            late = time.monotonic() >= deadline
            for i in range(len(proposal) + 1):
                id = self._choose(logits[i], proposal[i : i + 1], q[i : i + 1])
                agrees = i < len(proposal) and id == int(proposal[i])
                self.accepted += agrees
                token = new_token(0, id, logits[i], logprobs)
                if (stop_if is not None and stop_if(token)) or self._text.has_ended:
                    ended = "stop"
                elif self.tokens == max_new_tokens:
                    ended = "length"
                elif late:
                    ended = "time"
                yield replace(token, ended=ended)
                if ended or not agrees:
                    break
            self._adapt(len(proposal), accepted=i)

    def _propose(self, most):
        """-> up to ``most`` ids (k,), and the k distributions (V,) that they were drawn from: [] if they weren't"""
        if most < 1:
            return self._text.ids[:0], []
        if isinstance(self._draft, PromptLookup):
            proposal, q = self._draft.propose(self._text.ids, most), []
        else:
            proposal, q = self._draw_from_draft(most)
        self.proposed += len(proposal)
        return proposal, q

    def _draw_from_draft(self, most):
        text, q = self._text.copy(), []
        while len(q) < most:
            q.append(self._sampling.distribution(self._draft.logits(text.ids), text.history()))
            id = draw(q[-1], text.rng)
            text.push(id)
            if text.has_ended:
                break
        return text.ids[self._text.length :], q

    def _logits(self, proposal):
        """k proposed ids -> logits (k + 1, V): after the text, and after each of them"""
        self.passes += 1
        block_size = self._decoder.config.block_size
        ids = self._text.ids
        if len(ids) > block_size:  # the window slides, and nothing that was computed is of use
            self.plain_steps += 1
            self._cache.lengths[0] = 0
            return self._decoder.prefill([ids[-block_size:]], self._cache, [0])
        if self.passes == 1 and len(ids) > 1:
            self._decoder.prefill([ids[:-1]], self._cache, [0])
        self._cache.lengths[0] = len(ids) - 1  # those that were not accepted are forgotten
        if len(proposal) == 0:
            return self._decoder.step(ids[-1:], self._cache, [0])
        return self._decoder.extend(np.append(ids[-1:], proposal), self._cache, 0)

    def _choose(self, logits, proposed, q):
        """Add the text's next id. proposed: [the draft's id], q: [its distribution (V,)]. Either may be empty."""
        text = self._text
        if q:
            p = self._sampling.distribution(logits, text.history())
            id = accept_or_redraw(int(proposed[0]), p, q[0], text.rng)
        else:  # a proposal that wasn't drawn is accepted if it is the id that the model chooses
            id = self._sampling.next_token(logits, text.history(), text.rng)
        self.tokens += 1
        text.push(id)
        return id

    def _adapt(self, proposed, accepted):
        """Let a draft model propose two tokens more where all were accepted, else one fewer.

        Source: transformers' schedule "heuristic" of ``num_assistant_tokens``. Looking up costs nothing either way.
        """
        if proposed and isinstance(self._draft, DraftModel):
            self._draft.go_back(self._text.length - 1)
            change = 2 if accepted == proposed else -1
            self._most_now = min(max(self._most_now + change, 1), self._most)


def accept_or_redraw(id: int, p: np.ndarray, q: np.ndarray, rng: np.random.Generator) -> int:
    """An id drawn from q (V,) -> one that is distributed as p (V,): the same one, or one drawn anew.

    >>> p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])
    >>> accept_or_redraw(1, p, q, np.random.default_rng(0)), accept_or_redraw(2, p, q, np.random.default_rng(0))
    (1, 0)
    """
    if rng.random() * q[id] < p[id]:
        return id
    more = np.maximum(p - q, 0)
    return draw(more if more.any() else p, rng)  # p = q but for rounding leaves nothing
