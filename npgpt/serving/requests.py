"""What a client of the engine asks for, and what it is told."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from npgpt.config import GPTConfig
from npgpt.errors import ConfigError
from npgpt.generation.logprobs import TokenLogprobs
from npgpt.generation.sampling import Sampling, is_whole
from npgpt.generation.token import Token
from npgpt.ops.embedding import check_ids


@dataclass(frozen=True, eq=False)
class Request:
    """One text to make.

    ids             (n,) the prompt
    max_new_tokens  0: nothing is made, and only the prompt's log-probabilities are told
    seed            of ``default_rng``; None: another text each time
    stop_ids        ids that end the text
    stop            strings that end it, and are no part of it
    logprobs        n: each new token comes with its log-probability, and the n likeliest ids and theirs
    prompt_logprobs the same for the prompt's own ids
    """

    ids: np.ndarray
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def check(self, config: GPTConfig) -> None:
        """Raise ConfigError, which begins with the field's name, if a model can't make this text."""
        ids = np.asarray(self.ids)
        if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
            raise ConfigError(f"ids: whole numbers (n,) with n > 0 were expected, not {ids.dtype} {ids.shape}")
        try:
            check_ids(ids, config.vocab_size)
        except IndexError as error:
            raise ConfigError(f"ids: {error}") from None
        for name in ("max_new_tokens", "seed", "logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if not (is_whole(value) or (value is None and name != "max_new_tokens")):
                raise ConfigError(f"{name}: a whole number of at least 0 was expected, not {value!r:.100}")
        # The last new token isn't read by the model any more.
        if ids.size + max(self.max_new_tokens - 1, 0) > config.block_size:
            said = f"{ids.size:,} tokens and {self.max_new_tokens:,} new ones are more"
            raise ConfigError(f"max_new_tokens: {said} than the {config.block_size:,} that the model sees at once")
        if "" in self.stop:
            raise ConfigError("stop: a string that ends a text can't be empty")


@dataclass(frozen=True)
class PromptRead:
    """A text's first event: its prompt has been through the model.

    text        which of the requests that were submitted together, from 0
    logprobs    of each of the prompt's ids, None for the first; () unless asked for
    reused      so many of its ids were in the cache, and were not computed
    """

    text: int
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    reused: int = 0


@dataclass(frozen=True)
class Made:
    """A new token, or a text's end.

    text        which of the requests that were submitted together, from 0
    token       None if the text ends without another one
    piece       what of the text is certain now. Characters are complete, and nothing of it begins a stop string
    ended       None; or "stop" (a stop id or string: the token is told, its text isn't), "length" (max_new_tokens),
                "cancelled", "shutdown" (the engine was closed), "error" (``problem`` says which)
    """

    text: int
    token: Token | None
    piece: str
    ended: str | None = None
    problem: str = ""


Event = PromptRead | Made
Deliver = Callable[[Event], None]
