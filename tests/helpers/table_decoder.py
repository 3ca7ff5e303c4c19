"""A model that can be written down: the next token depends on the last two ids alone, by a table of logits."""

from itertools import product

import numpy as np

from npgpt.config import GPTConfig
from npgpt.generation import History


class _Cache:
    def __init__(self):
        self.ids, self.lengths = np.zeros(64, np.int64), np.zeros(1, np.int64)


class TableDecoder:
    """logits (V, V, V): of the next id, after the last id but one and the last. It has a Decoder's methods."""

    def __init__(self, logits):
        self.table = np.asarray(logits)
        self.config = GPTConfig(vocab_size=len(self.table), block_size=64, n_layer=1, n_head=1, n_embd=1)

    def new_cache(self, rows=1):
        return _Cache()

    def extend(self, ids, cache, row):
        first, end = int(cache.lengths[row]), int(cache.lengths[row]) + len(ids)
        cache.ids[first:end] = ids
        cache.lengths[row] = end
        before = np.concatenate([[0], cache.ids[:end]])
        return self.table[before[first:end], before[first + 1 :][: len(ids)]]

    def prefill(self, prompts, cache, rows):
        return self.extend(prompts[0], cache, rows[0])[-1:]

    def step(self, ids, cache, rows):
        return self.extend(ids, cache, rows[0])


def exact_distribution(decoder, prompt, length, sampling, constraint=None) -> np.ndarray:
    """The probability of each continuation of ``length`` ids (V, ..., V), multiplied up from one token to the next."""
    V = decoder.config.vocab_size
    joint = np.ones([V] * length)
    for new in product(range(V), repeat=length):
        state = constraint and constraint.copy()
        for n in range(length):
            text = np.array([*prompt, *new[:n]])
            allowed = state.allowed() if state else None
            logits = decoder.table[text[-2], text[-1]]
            p = sampling.distribution(logits, History(text, len(prompt), allowed=allowed))[new[n]]
            joint[new] *= p
            if p == 0:
                break
            if state:
                state.push(new[n])
    return joint
