"""The model that is served: from a client's fields to what the engine takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import time
from typing import Any
from uuid import uuid4

import numpy as np

from npgpt.errors import ConfigError, TokenizerError
from npgpt.generation import Sampling
from npgpt.serving.engine import Busy, Closed, Engine
from npgpt.serving.errors import SHOWN, WRONG, ApiError
from npgpt.serving.requests import Request
from npgpt.serving.schema import Sampled
from npgpt.serving.texts import Texts, busy, stopping

TOO_LONG = "context_length_exceeded"
_FIELDS = {"min_new_tokens": "min_tokens", "max_new_tokens": "max_tokens", "ids": "prompt"}  # of npgpt: OpenAI's


@dataclass(frozen=True)
class Served:
    """An engine, what clients call its model, and since when it is served, in seconds of Unix time."""

    engine: Engine
    name: str
    created: int

    @property
    def block_size(self) -> int:
        """Tokens that the model sees at once."""
        return self.engine.config.block_size

    @cached_property
    def ids(self) -> int:
        """How many ids have a text; a model's vocabulary may be padded."""
        return min(self.engine.tokenizer.vocab_size, self.engine.config.vocab_size)

    @cached_property
    def longest_text(self) -> int:
        """No text of more bytes fits into the context."""
        return self.block_size * max(len(self.engine.tokenizer.token_bytes(id)) for id in range(self.ids))

    def header(self, kind: str) -> dict[str, Any]:
        """What each answer of one request begins with; its id begins with ``kind``."""
        return {"id": f"{kind}-{uuid4().hex}", "created": int(time()), "model": self.name}

    def check_name(self, name: str | None) -> None:
        """Raise ApiError, unless a client means this model."""
        if name not in (None, self.name):
            message = f"The model `{str(name)[:SHOWN]}` does not exist: this server has `{self.name}`."
            raise ApiError(404, message, "model", "model_not_found")

    def encode(self, prompt: str | list[int], param: str) -> np.ndarray:
        """A text or ids -> ids (n,). Raises ApiError if they can't be a prompt. "<|endoftext|>" is text like another.

        ids that came as text belong to the tokenizer's vocabulary. An empty text becomes what precedes a document.
        """
        if isinstance(prompt, str):
            self.check_length(prompt, param)
            try:
                ids = self.engine.tokenizer.encode_prompt(prompt)
            except TokenizerError as error:
                raise ApiError(400, f"{param}: {str(error).splitlines()[0]}", param, WRONG) from None
        else:
            if not (min(prompt) >= 0 and max(prompt) < self.ids):
                raise ApiError(400, f"{param} must have ids from 0 to {self.ids - 1:,}", param, WRONG)
            ids = np.array(prompt, np.int64)
        if len(ids) > self.block_size:
            raise self.too_long(len(ids), 0, param)
        return ids

    def check_length(self, text: str, param: str) -> None:
        """Raise ApiError if the text can't fit, before time is spent on encoding it."""
        if len(text) > self.longest_text:
            raise self.too_long(self.block_size + 1, 0, param)

    def room(self, ids: np.ndarray, wanted: int | None, default: int, param: str = "max_tokens") -> int:
        """How many tokens to make. Raises ApiError if there is no room for those that are wanted."""
        room = self.block_size + 1 - len(ids)  # the last one is made of the whole context
        if wanted is not None and wanted > room:
            raise self.too_long(len(ids), wanted, param)
        return min(default, room) if wanted is None else wanted

    def too_long(self, prompt: int, wanted: int, param: str) -> ApiError:
        """The error that so many tokens of prompt and text don't fit."""
        message = (
            f"This model's maximum context length is {self.block_size:,} tokens. However, you requested "
            f"{prompt + wanted:,} tokens or more ({prompt:,} in the prompt, {wanted:,} for the completion)."
        )
        return ApiError(400, message, param, TOO_LONG)

    def sampling(self, request: Sampled, new: int) -> Sampling:
        """How tokens are chosen. Unlike npgpt.sample's, the API's defaults draw from the model's own distribution.

        new     how many tokens are made at most (``room``). Raises ApiError if ``min_tokens`` are more
        """
        if (request.min_tokens or 0) > new:
            message = f"min_tokens must be at most {new:,}, the tokens that are made: see max_tokens"
            raise ApiError(400, message, "min_tokens", WRONG)
        if any(id >= self.ids for id in request.logit_bias):
            raise ApiError(400, f"logit_bias must have ids from 0 to {self.ids - 1:,}", "logit_bias", WRONG)
        return Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_k=max(request.top_k or 0, 0),
            top_p=request.top_p,
            min_p=request.min_p,
            typical_p=request.typical_p,
            repetition_penalty=request.repetition_penalty or 1.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=request.logit_bias,
            min_new_tokens=request.min_tokens or 0,
        )

    def submit(self, requests: Sequence[Request]) -> Texts:
        """Begin to make texts. Raises ApiError if they can't be, or if too many wait."""
        try:
            return Texts(self.engine, requests)
        except ConfigError as error:
            field = str(error).split()[0].removesuffix(":")
            raise ApiError(400, str(error), _FIELDS.get(field, field), WRONG) from None
        except Busy as error:
            raise busy("too many texts are waiting", error.retry_after) from None
        except Closed:
            raise stopping() from None
