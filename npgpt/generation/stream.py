"""The loop that generates text, one token at a time, for any number of texts at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from math import inf
from operator import index
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npgpt.errors import ConfigError
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.decoder import Decoder
from npgpt.generation.prefix import Prefix
from npgpt.generation.sampling import Sampling
from npgpt.generation.text_in_progress import Constraint, TextInProgress, check_limits, next_token
from npgpt.generation.token import Token
from npgpt.gpt import GPT
from npgpt.ops.embedding import check_ids

# Arguments of transformers' ``generate``, and what to give here instead.
_OF_TRANSFORMERS = {
    "attention_mask": "give prompts of unequal length as a list, without padding",
    "do_sample": "the default is to draw; temperature=0 takes the likeliest token",
    "eos_token_id": "give stop_ids=[...]",
    "max_length": "give max_new_tokens, which doesn't count the prompt",
    "num_beams": "call generation.beam_search",
    "num_return_sequences": "give num_samples",
    "stop_strings": "give stop_if=generation.StopTexts(tokenizer, [...])",
    "streamer": "iterate over stream(...), or give callback",
}
_MAY_END_EARLY = ("stop_ids", "stop_if", "max_seconds", "constraint")  # options by which a text may end early


def stream(
    model: GPT | Decoder,
    ids: np.ndarray | Sequence[ArrayLike],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int | None = None,
    use_cache: bool = True,
    *,
    num_samples: int = 1,
    stop_ids: Iterable[int] = (),
    stop_if: Callable[[Token], bool] | None = None,
    max_seconds: float | None = None,
    logprobs: int | None = None,
    constraint: Constraint | None = None,
    prefix: Prefix | None = None,
    cache: KeyValueCache | None = None,
    **settings: Any,
) -> Iterator[Token]:
    """Continue texts: an iterator over their new tokens, as they are made: one for each text in turn.

    ids             the prompts: (B, T), or B lists of ids of any lengths, with at least one id each
    sampling        how tokens are chosen; None is ``Sampling()``. Any of its fields can be given by name as well
    seed            text i draws from ``default_rng(seed + i)``, so it is the same alone with the seed ``seed + i`` as
                    among others. None: another text each time
    use_cache       False computes everything again for each token. The text is the same, but for rounding; a cache in
                    bfloat16 rounds what it holds
    num_samples     texts of each prompt, which goes through the model once for all of them. Texts p * num_samples to
                    (p + 1) * num_samples - 1 continue prompt p
    stop_ids        ids that end a text. The one that does is yielded
    stop_if         is asked of each token, before it is yielded, whether its text ends there. ``StopTexts`` is one
    max_seconds     after so long each text ends with its next token
    logprobs        n: each token comes with its log-probability, and with the n likeliest ids and theirs
    constraint      says which ids may come next; each text has its own copy
    prefix          a text that has been through the model. The first ids of a prompt that are also its own are not
                    computed again
    cache           row i holds the keys and values of the first ids of prompt i, but not of all. Afterwards it holds
                    those of all ids that have been through the model. None: an empty one, which isn't kept

    A text that has ended costs nothing more. Past the model's block_size the window slides: a text then sees its last
    block_size ids, and since each of them has moved to another position, all are computed again for each token.

    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> [(token.row, token.ended) for token in stream(model, [[1, 2, 3], [4]], max_new_tokens=2)]
    [(0, None), (1, None), (0, 'length'), (1, 'length')]

    Raises ValueError on a prompt without ids, IndexError on an id outside the vocabulary, TypeError on ids that are not
    whole numbers and on an unknown setting, ConfigError on a setting that can't be; and while tokens are made
    FloatingPointError if the model's logits are not finite.
    """
    decoder = Decoder.of(model)
    for name in settings.keys() - {f.name for f in fields(Sampling)}:
        hint = f": {_OF_TRANSFORMERS[name]}" if name in _OF_TRANSFORMERS else ""
        raise TypeError(f"there is no setting {name!r} of generating{hint}")
    sampling = replace(sampling or Sampling(), **settings)
    prompts = _prompts(ids, decoder.config.vocab_size)
    check_limits(max_seconds, max_new_tokens=(max_new_tokens, 0), num_samples=(num_samples, 1), logprobs=(logprobs, 0))
    if not use_cache and not (cache is None and prefix is None):
        raise ConfigError("use_cache=False goes without a cache and a prefix")
    stops = frozenset(map(index, stop_ids))
    texts = []
    for row in range(len(prompts) * num_samples):
        rng = np.random.default_rng(None if seed is None else seed + row)
        texts.append(TextInProgress(row, prompts[row // num_samples], stops, rng, constraint and constraint.copy()))
    computation = _Computation(decoder, texts, num_samples, max_new_tokens, use_cache, prefix, cache)
    seconds = inf if max_seconds is None else max_seconds
    return _tokens(computation, texts, sampling, max_new_tokens, stop_if, seconds, logprobs)


def generate(
    model: GPT | Decoder,
    ids: np.ndarray | Sequence[ArrayLike],
    max_new_tokens: int,
    *,
    callback: Callable[[Token], object] | None = None,
    **options: Any,
) -> np.ndarray | list[np.ndarray]:
    """Continue texts: their ids, those of the prompt and what is made of it.

    ids (B, T) -> (B * num_samples, T + max_new_tokens). It is a list of arrays if the prompts are of unequal length, or
    if one of stop_ids, stop_if, max_seconds and constraint is given, so that a text may end early.

    callback        is called with each ``Token`` as soon as it is made
    options         those of ``stream`` and the fields of ``Sampling``, whose errors these are. temperature=0 is greedy

    >>> from npgpt import GPT, GPTConfig, generation
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> generation.generate(model, [[1, 2]], max_new_tokens=3, seed=0).shape
    (1, 5)
    >>> [len(text) for text in generation.generate(model, [[1, 2, 3], [4]], max_new_tokens=3)]
    [6, 4]
    """
    ids = list(ids) if isinstance(ids, Iterator) else ids  # they are read twice
    tokens = stream(model, ids, max_new_tokens, **options)
    prompts = [np.asarray(prompt, np.int64) for prompt in ids for _ in range(options.get("num_samples", 1))]
    new = [[] for _ in prompts]
    for token in tokens:
        if callback is not None:
            callback(token)
        new[token.row].append(token.id)
    texts = [np.append(prompt, np.array(row, np.int64)) for prompt, row in zip(prompts, new, strict=True)]
    may_end_early = any(options.get(name) is not None for name in _MAY_END_EARLY)
    return texts if may_end_early or len(set(map(len, prompts))) > 1 else np.stack(texts)


def _prompts(ids, vocab_size):
    if isinstance(ids, str):
        raise TypeError("ids are numbers, and this is a text: give [tokenizer.encode(text)]")
    try:
        prompts = [np.asarray(prompt) for prompt in ids]
    except TypeError:  # a single id
        prompts = []
    if not prompts or any(prompt.ndim != 1 or prompt.size == 0 for prompt in prompts):
        form = "ids must have shape (B, T) with at least one token, or be lists with at least one id each"
        raise ValueError(f"{form}; those of a single text are [ids]")
    for prompt in prompts:
        check_ids(prompt, vocab_size)
    return prompts


class _Computation:
    """The logits (V,) after each text's last id. Only ids that the cache doesn't hold go through the model."""

    def __init__(self, decoder, texts, num_samples, max_new_tokens, use_cache, prefix, cache):
        self.decoder, self.num_samples, self.prefix = decoder, num_samples, prefix
        self.block_size = decoder.config.block_size
        self.cache = cache if use_cache else None
        if use_cache and cache is None:
            longest = max(text.length for text in texts) + max_new_tokens
            self.cache = decoder.new_cache(len(texts), min(self.block_size, longest))

    def first_logits(self, texts):
        """Each prompt goes through the model once; its other samples get copies of what the cache then holds."""
        prompts = texts[:: self.num_samples]
        if self.cache is not None and self.prefix is not None:
            for text in prompts:
                if text.length <= self.block_size:
                    self.cache.copy_from(self.prefix.cache, 0, text.row, self.prefix.shared_with(text.ids))
        logits = self.next_logits(prompts)
        if self.cache is not None and self.num_samples > 1:
            for text in prompts:
                self.cache.copy_rows(text.row, range(text.row, text.row + self.num_samples))
        return [row for row in logits for _ in range(self.num_samples)]

    def next_logits(self, texts):
        windows = [text.ids[-self.block_size :] for text in texts]
        if self.cache is None:
            return self.decoder.prefill(windows)
        for text in texts:
            if text.length > self.block_size:
                self.cache.lengths[text.row] = 0  # the window has moved, and with it the position of every id
        new = {text.row: window[self.cache.lengths[text.row] :] for text, window in zip(texts, windows, strict=True)}
        logits = {}
        single = [row for row, ids in new.items() if len(ids) == 1]
        several = [row for row, ids in new.items() if len(ids) != 1]
        if single:
            step = self.decoder.step(np.concatenate([new[row] for row in single]), self.cache, single)
            logits |= dict(zip(single, step, strict=True))
        if several:
            prefill = self.decoder.prefill([new[row] for row in several], self.cache, several)
            logits |= dict(zip(several, prefill, strict=True))
        return [logits[text.row] for text in texts]


def _tokens(computation, texts, sampling, max_new_tokens, stop_if, max_seconds, logprobs):
    deadline = monotonic() + max_seconds
    if max_new_tokens == 0:
        return
    logits = computation.first_logits(texts)
    while True:
        late, unfinished = monotonic() >= deadline, []
        for text, row in zip(texts, logits, strict=True):
            token = next_token(text, row, sampling, logprobs)
            stopped = stop_if is not None and stop_if(token)
            if stopped or text.has_ended:
                token = replace(token, ended="stop")
            elif text.length - text.prompt_length == max_new_tokens:
                token = replace(token, ended="length")
            elif late:
                token = replace(token, ended="time")
            else:
                unfinished.append(text)
            yield token
        if not unfinished:
            return
        texts = unfinished
        logits = computation.next_logits(texts)
