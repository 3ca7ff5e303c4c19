"""Beam search: the likeliest text, looked for along several beginnings at once."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from npgpt.errors import ConfigError
from npgpt.generation.decoder import Decoder
from npgpt.generation.filters import log_softmax, top_k
from npgpt.generation.sampling import History, Sampling, is_number, is_whole, require_numbers
from npgpt.gpt import GPT


@dataclass(frozen=True)
class Beam:
    """A finished text.

    ids     (n,) the prompt, what was added to it, and the id that ended it if there was one
    score   the sum of the new ids' log-probabilities, divided by their number ** length_penalty
    """

    ids: np.ndarray
    score: float


@dataclass(frozen=True)
class _Rules:
    """The settings of a search. Raises ConfigError, which names the one that is out of range."""

    max_new_tokens: int
    beams: int
    length_penalty: float
    early_stopping: bool | str
    returned: int
    stop_ids: frozenset[int]

    def __post_init__(self):
        for name in ("max_new_tokens", "beams", "returned"):
            self._check(is_whole(getattr(self, name), 1), name, "a whole number of at least 1")
        self._check(self.returned <= self.beams, "returned", f"at most the number of beams, {self.beams}")
        penalty = self.length_penalty
        self._check(is_number(penalty) and -20 <= penalty <= 20, "length_penalty", "a number from -20 to 20")
        early = self.early_stopping
        self._check(isinstance(early, bool) or early == "never", "early_stopping", 'False, True or "never"')
        ids = self.stop_ids
        self._check(all(map(is_whole, ids)), "stop_ids", "whole numbers of at least 0")

    @property
    def candidates(self) -> int:
        """Continuations that a step looks at. Each stop id ends at most ``beams`` of them, so as many can run on."""
        return (1 + max(1, len(self.stop_ids))) * self.beams

    def score(self, total, length):
        return total / length**self.length_penalty

    def are_enough(self, finished, best_running, length):
        """Whether the search can stop, with ``best_running`` the largest sum of log-probabilities that runs on."""
        if len(finished) < self.beams:
            return False
        if self.early_stopping is True:
            return True
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.max_new_tokens  # a negative sum that stays as it is has its best score at this length
        return self.score(best_running, length) <= finished[-1].score

    def _check(self, ok, name, wanted):
        if not ok:
            raise ConfigError(f"{name} must be {wanted}, not {getattr(self, name)!r}")


def beam_search(
    model: GPT | Decoder,
    prompt_ids: ArrayLike,
    max_new_tokens: int,
    beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    returned: int = 1,
    stop_ids: Iterable[int] = (),
    sampling: Sampling | None = None,
) -> list[Beam]:
    """Continue a prompt by ``beams`` running texts at once -> the best finished ones, the best first.

    Each step looks at every continuation of every running text. Of the (1 + number of stop ids) * beams likeliest, at
    least twice as many as there are beams, those that end with a stop id are finished if they are among the first
    ``beams``, and the likeliest others run on. The best ``beams`` finished texts are kept. Texts of max_new_tokens are
    finished too.

    prompt_ids      (n,) with at least one id
    length_penalty  a score is the sum of log-probabilities over length ** length_penalty. The sum is negative, so above
                    0 favours long texts; 0 is the sum itself
    early_stopping  when to stop with enough finished texts. True: at once. False: when the best running text, if it
                    ended now, would not be better than the worst finished one. "never": when it could not become better
                    at any length up to max_new_tokens, if its new ids had probability 1
    returned        so many texts, at most ``beams``; fewer come if bans leave fewer
    sampling        its penalties and bans apply, to log-probabilities as in transformers. Temperature and filters are
                    for drawing, and aren't used

    It is transformers' beam search, and gives the same texts and scores. Past the model's context the window slides.
    Raises ConfigError, which names the argument, if one is out of range, ValueError if the prompt isn't ids, and
    FloatingPointError if logits are NaN or +inf or no token is left.

    Source: Wu et al. 2016, section 7, which has another length penalty; the rules are those of transformers.
    """
    prompt = np.asarray(prompt_ids)
    if prompt.ndim != 1 or prompt.size == 0 or prompt.dtype.kind not in "iu":
        raise ValueError(f"prompt_ids must be (n,) whole numbers with n > 0, not {prompt.dtype} {prompt.shape}")
    prompt = prompt.astype(np.int64)  # np.append would make float64 of uint64 and a number
    rules = _Rules(max_new_tokens, beams, length_penalty, early_stopping, returned, frozenset(stop_ids))
    sampling = sampling or Sampling()
    decoder = Decoder.of(model)
    cache = decoder.new_cache(beams)
    running = {0: (0.0, prompt)}  # {row of the cache: (sum of log-probabilities, ids)}
    finished: list[Beam] = []
    for length in range(1, max_new_tokens + 1):
        rows = sorted(running)
        logits = _next_logits(decoder, cache, rows, [running[row][1] for row in rows])
        continuations = []
        for row, row_logits in zip(rows, logits, strict=True):
            total, ids = running[row]
            logprobs = _logprobs(row_logits, History(ids, len(prompt), rules.stop_ids), sampling)
            likeliest = top_k(logprobs, rules.candidates)
            continuations += [(total + logprobs[id], row, int(id)) for id in likeliest]
        continuations.sort(key=lambda continuation: -continuation[0])
        run_on = []
        for place, (total, row, id) in enumerate(continuations[: rules.candidates]):
            if length < max_new_tokens and id not in rules.stop_ids:
                run_on.append((total, row, id))
            elif place < beams:
                finished.append(Beam(np.append(running[row][1], id), float(rules.score(total, length))))
        finished = sorted(finished, key=lambda beam: -beam.score)[:beams]
        if not run_on or rules.are_enough(finished, run_on[0][0], length):
            break
        running = _in_rows(run_on[:beams], running, cache, beams)
    if not finished:
        raise FloatingPointError("no token is left to choose from: all are banned")
    return finished[:returned]


def _next_logits(decoder, cache, rows, texts):
    """Texts, ids (n,) each of one length; the rows hold nothing, or all but the last id -> logits (len(rows), V)"""
    block_size = decoder.config.block_size
    n = len(texts[0])
    if n <= block_size and cache.lengths[rows[0]] == n - 1 > 0:
        return decoder.step(np.array([ids[-1] for ids in texts]), cache, rows)
    cache.lengths[rows] = 0  # at the start, and past the context, where every id has moved to another position
    return decoder.prefill([ids[-block_size:] for ids in texts], cache, rows)


def _logprobs(logits, history, sampling):
    """logits (V,) of one text -> the log-probabilities (V,) of what can come next, -inf for what is banned"""
    require_numbers(logits)
    return sampling.penalised(log_softmax(logits), history)


def _in_rows(run_on, running, cache, beams):
    """Place the texts that run on -> the next ``running``: each in a row of the cache that holds all but its last id.

    The first continuation of a text stays in its row. Others get a copy of the row, in place of a text that doesn't run
    on, so no row is overwritten that is still to be copied.
    """
    parents = {parent for _, parent, _ in run_on}
    free = [row for row in range(beams) if row not in parents]
    placed = {}
    for total, parent, id in run_on:
        row = parent
        if row in placed:
            row = free.pop(0)
            cache.copy_rows(parent, [row])
        placed[row] = (total, np.append(running[parent][1], id))
    return placed
