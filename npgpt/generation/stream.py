"""The loop that makes text, one token at a time."""

from collections.abc import Iterator

import numpy as np

from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.sampling import Sampling
from npgpt.tensor import no_grad


def stream(
    model, ids, max_new_tokens: int, sampling: Sampling, seed: int | None = None, use_cache: bool = True
) -> Iterator:
    """Yield the next ids (B,) of B texts that begin with ids (B, T), ``max_new_tokens`` times.

    With the cache each step works on the new token alone. Past the model's block_size the window slides: the model then
    sees the last block_size tokens, and since each of them has moved to a new position, all of them are computed again.

    Raises ValueError if there is no id to begin with.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"ids must have shape (B, T) with at least one token, not {ids.shape}")
    rng = np.random.default_rng(seed)
    block_size = model.config.block_size
    cache = None
    for _ in range(max_new_tokens):
        if not use_cache or ids.shape[1] > block_size:
            cache, new = None, ids[:, -block_size:]
        elif cache is None:
            cache, new = KeyValueCache(model.config, len(ids), model.head.dtype), ids
        else:
            new = ids[:, -1:]
        following = sampling.next_tokens(_next_logits(model, new, cache), rng)
        yield following
        ids = np.concatenate([ids, following[:, None]], axis=1)


def generate(
    model,
    ids,
    max_new_tokens: int,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    top_p: float | None = TOP_P,
    seed: int | None = None,
    use_cache: bool = True,
) -> np.ndarray:
    """Continue B texts: ids (B, T) -> (B, T + max_new_tokens). temperature=0 is greedy; see ``Sampling``."""
    sampling = Sampling(temperature, top_k, top_p)
    new = stream(model, ids, max_new_tokens, sampling, seed, use_cache)
    return np.concatenate([np.asarray(ids), *(n[:, None] for n in new)], axis=1)


@no_grad()
def _next_logits(model, ids, cache):
    """ids (B, T) -> (B, V) for the token after the last, with dropout off."""
    training = model.training
    model.eval()
    try:
        last = model.features(ids, cache=cache)[:, -1]
        return (last @ model.head.T).data
    finally:
        model.train(training)
