"""Choose the next token from the logits: all settings of one choice, and the order in which they apply."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from numbers import Integral, Real

import numpy as np

from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.errors import ConfigError
from npgpt.generation import filters, penalties


@dataclass
class History:
    """What the choice may depend on, of ONE text.

    ids             (n,) all ids so far, prompt included
    prompt_length   so many of them are the prompt
    stop_ids        ids that end a text
    allowed         (V,) of bool, what a constraint allows next; None: everything
    """

    ids: np.ndarray
    prompt_length: int
    stop_ids: frozenset[int] = frozenset()
    allowed: np.ndarray | None = None

    @property
    def generated(self) -> np.ndarray:
        """The ids after the prompt."""
        return self.ids[self.prompt_length :]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises ConfigError, which names the field, if a value is out of range.

    The settings apply in this order, that of transformers, to the logits of one text:

    logit_bias              {id: number} is added to the logits; -inf bans an id
    repetition_penalty      divides the logits of ids in prompt and text; 1 is none
    presence_penalty        is subtracted from the logits of ids generated so far; 0 is none
    frequency_penalty       the same, once for each time that an id was generated; 0 is none
    no_repeat_ngram_size    bans what would complete so many ids in a row that were in prompt or text before; 0 is off
    bad_words               sequences of ids that are never completed
    min_new_tokens          bans the ids that end a text until so many are generated
                            (here what the history doesn't allow is banned)
    temperature             logits are divided by it: below 1 sharpens the distribution; 0 is greedy, always the
                            likeliest token and of several that are equally likely the first; what follows is not used
    top_k                   only the k likeliest tokens; None or 0: all
    top_p                   only the likeliest tokens that together have probability p; None: all
    min_p                   only tokens at least p times as likely as the likeliest; None: all
    typical_p               only the tokens of most typical surprise that together have probability p; None: all

    Each has its formula and source in penalties.py or filters.py. transformers has no presence and frequency penalties;
    their place after the repetition penalty is vLLM's.

    >>> sampling = Sampling(temperature=1.0, top_k=2, logit_bias={3: -inf})
    >>> text = History(ids=np.array([1, 2]), prompt_length=1)
    >>> sampling.distribution(np.log([0.3, 0.1, 0.1, 0.5]), text).round(2)
    array([0.6, 0.2, 0.2, 0. ])
    """

    temperature: float = TEMPERATURE
    top_k: int | None = TOP_K
    top_p: float | None = TOP_P
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    bad_words: Sequence[Sequence[int]] = ()
    min_new_tokens: int = 0

    def __post_init__(self):
        self._check("temperature", lambda x: is_number(x) and x >= 0, "a number of at least 0")
        self._check("top_k", lambda k: k is None or is_whole(k), "a whole number of at least 0")
        for name in ("top_p", "typical_p"):
            self._check(name, lambda p: p is None or (is_number(p) and 0 < p <= 1), "a number above 0 and at most 1")
        self._check("min_p", lambda p: p is None or (is_number(p) and 0 <= p <= 1), "a number from 0 to 1")
        self._check("repetition_penalty", lambda x: is_number(x) and x > 0, "a number above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            self._check(name, is_number, "a number")
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            self._check(name, is_whole, "a whole number of at least 0")
        self._check("logit_bias", _is_bias, "a mapping from ids, of at least 0, to numbers or -inf")
        self._check("bad_words", _are_words, "sequences of ids, of at least 0, with at least one id each")
        object.__setattr__(self, "logit_bias", {int(id): float(x) for id, x in self.logit_bias.items()})
        object.__setattr__(self, "bad_words", tuple(tuple(map(int, word)) for word in self.bad_words))

    def without(self, ids: Iterable[int]) -> "Sampling":
        """The same, but these ids never come: those of a padded vocabulary that have no text, say.

        >>> Sampling(logit_bias={1: 0.5}).without([3]).logit_bias
        {1: 0.5, 3: -inf}
        """
        return replace(self, logit_bias={**self.logit_bias, **dict.fromkeys(ids, -inf)})

    def next_token(self, logits: np.ndarray, history: History, rng: np.random.Generator) -> int:
        """logits (V,) -> an id, drawn with one number of ``rng``; greedy takes none.

        Raises FloatingPointError if a logit is NaN or +inf, or if no token is left.
        """
        ids, p = self._candidates(logits, history)
        if self.temperature == 0:
            return int(ids[0])
        return int(ids[draw(p, rng)])

    def distribution(self, logits: np.ndarray, history: History) -> np.ndarray:
        """logits (V,) -> the probabilities (V,) in float64 with which ``next_token`` draws; greedy: 1 at its choice."""
        ids, p = self._candidates(logits, history)
        distribution = np.zeros(len(logits))
        distribution[ids] = p
        return distribution

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def penalised(self, logits: np.ndarray, history: History) -> np.ndarray:
        """logits (V,) -> (V,) after all that stands before the temperature. They may be log-probabilities, too.

        Raises FloatingPointError if a logit becomes infinite or NaN.
        """
        ids, generated = history.ids, history.generated
        if self.logit_bias:
            logits = penalties.logit_bias(logits, self.logit_bias)
        if self.repetition_penalty != 1:
            logits = penalties.repetition(logits, ids, self.repetition_penalty)
        if self.presence_penalty:
            logits = penalties.presence(logits, generated, self.presence_penalty)
        if self.frequency_penalty:
            logits = penalties.frequency(logits, generated, self.frequency_penalty)
        if self.no_repeat_ngram_size:
            logits = penalties.no_repeat_ngram(logits, ids, self.no_repeat_ngram_size)
        if self.bad_words:
            logits = penalties.bad_words(logits, ids, self.bad_words, history.stop_ids)
        if self.min_new_tokens:
            logits = penalties.min_new_tokens(logits, generated, self.min_new_tokens, history.stop_ids)
        if history.allowed is not None:
            logits = penalties.only_allowed(logits, history.allowed)
        if not logits.max() < inf:
            raise FloatingPointError("a penalty or bias is so large that a logit became infinite or NaN")
        return logits

    def _candidates(self, logits, history):
        """-> the ids that are left, ascending, and their probabilities, which add up to 1.

        Of 50,257 logits ``top_k`` mostly leaves 50, and only those are converted to float64.
        """
        require_numbers(logits)
        logits = self.penalised(logits, history)
        largest = logits.max()
        if largest == -inf:
            raise FloatingPointError("no token is left to choose from: all are banned or not allowed")
        if self.temperature == 0:
            return np.array([logits.argmax()]), np.ones(1)
        ids = filters.top_k(logits, self.top_k or len(logits))
        p = filters.softmax(logits[ids], self.temperature)
        rules = ((filters.top_p, self.top_p), (filters.min_p, self.min_p), (filters.typical_p, self.typical_p))
        for keep, setting in rules:
            if setting is not None:
                kept = keep(p, setting)
                ids, p = ids[kept], p[kept] / p[kept].sum()
        return ids, p

    def _check(self, name, is_right, wanted):
        value = getattr(self, name)
        if not is_right(value):
            raise ConfigError(f"{name} must be {wanted}, not {repr(value)[:100]}")


def draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """weights (n,) -> an index, each as likely as its weight is large. It takes one number of ``rng``."""
    cumulative = np.cumsum(weights)
    threshold = rng.random() * cumulative[-1]  # below the sum: the first element that brings the sum above it is drawn
    return int(np.searchsorted(cumulative, threshold, side="right"))


def require_numbers(logits: np.ndarray) -> None:
    """Raises FloatingPointError if a logit is NaN or +inf. One of -inf is a token that can't come."""
    if not logits.max() < inf:  # NaN is the largest of all to ``max``, and not less than anything
        raise FloatingPointError("the model's logits are not finite: its weights are damaged or have diverged")


def is_number(x: object) -> bool:
    """Whether x is a finite number, NumPy's included; True and False are none."""
    return isinstance(x, Real) and not isinstance(x, bool) and isfinite(x)


def is_whole(n: object, low: int = 0) -> bool:
    """Whether n is a whole number of at least ``low``, NumPy's included; True and False are none."""
    return isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= low


def _is_bias(bias) -> bool:
    return isinstance(bias, Mapping) and all(is_whole(id) and (is_number(x) or x == -inf) for id, x in bias.items())


def _are_words(words) -> bool:
    lists = (Sequence, np.ndarray)
    return isinstance(words, lists) and all(
        isinstance(word, lists) and len(word) > 0 and all(map(is_whole, word)) for word in words
    )
