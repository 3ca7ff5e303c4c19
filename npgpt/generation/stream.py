"""The loop that generates text, one token at a time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.sampling import Sampling
from npgpt.gpt import GPT
from npgpt.tensor import no_grad


def stream(
    model: GPT,
    ids: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int | None = None,
    use_cache: bool = True,
) -> Iterator[np.ndarray]:
    """Yield the next ids (B,) of B texts that begin with ids (B, T), ``max_new_tokens`` times.

    sampling    how tokens are drawn; None is ``Sampling()``
    seed        makes the same text again; None is random
    use_cache   work on the new token alone. Past the model's block_size the window slides: the model then sees the last
                block_size tokens, and since each of them has moved to a new position, all are computed again

    Raises ValueError if there is no id to begin with.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"ids must have shape (B, T) with at least one token, not {ids.shape}")
    sampling = sampling or Sampling()
    rng = np.random.default_rng(seed)
    block_size = model.config.block_size
    cache = None
    for _ in range(max_new_tokens):
        if not use_cache or ids.shape[1] > block_size:
            cache, new = None, ids[:, -block_size:]
        elif cache is None:
            cache, new = KeyValueCache(model.config, len(ids), model.lm_head_weight.dtype), ids
        else:
            new = ids[:, -1:]
        next_ids = sampling.next_tokens(_next_logits(model, new, cache), rng)
        yield next_ids
        ids = np.concatenate([ids, next_ids[:, None]], axis=1)


def generate(
    model: GPT,
    ids: ArrayLike,
    max_new_tokens: int,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    top_p: float | None = TOP_P,
    seed: int | None = None,
    use_cache: bool = True,
) -> np.ndarray:
    """Continue B texts: ids (B, T) -> (B, T + max_new_tokens). Errors are those of ``Sampling`` and ``stream``.

    temperature, top_k, top_p   how tokens are drawn: see ``Sampling``. temperature=0 is greedy
    seed, use_cache             see ``stream``

    >>> from npgpt import GPT, GPTConfig, generation
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> generation.generate(model, [[1, 2]], max_new_tokens=3, seed=0).shape
    (1, 5)
    """
    new = stream(model, ids, max_new_tokens, Sampling(temperature, top_k, top_p), seed, use_cache)
    return np.concatenate([np.asarray(ids), *(n[:, None] for n in new)], axis=1)


@no_grad()
def _next_logits(model, ids, cache):
    """ids (B, T) -> (B, V) for the token after the last, with dropout off."""
    training = model.training
    model.eval()
    try:
        last = model.hidden_states(ids, cache=cache)[:, -1]
        return (last @ model.lm_head_weight.T).data
    finally:
        model.train(training)
