"""A decoder whose cache holds ids and nothing else: every logit is computed from the whole text."""

import numpy as np

from npgpt.tensor import no_grad


class PlainCache:
    """texts: the ids that each row holds. ``copies`` lists the calls of copy_rows."""

    def __init__(self, rows):
        self.texts = [[] for _ in range(rows)]
        self.lengths = _Lengths(self.texts)
        self.copies = []

    def copy_rows(self, source, targets):
        self.copies.append((source, list(targets)))
        for target in targets:
            self.texts[target][:] = self.texts[source]


class _Lengths:
    """Of the rows' texts; a text is cut off when its length is set."""

    def __init__(self, texts):
        self.texts = texts

    def __getitem__(self, row):
        return len(self.texts[row])

    def __setitem__(self, rows, length):
        for row in rows:
            del self.texts[row][length:]


class PlainDecoder:
    """Computes what ``generation.decoder.Decoder`` does, without keys and values."""

    def __init__(self, model):
        self.model, self.config = model, model.config
        self.caches = []

    def new_cache(self, rows=1):
        self.caches.append(PlainCache(rows))
        return self.caches[-1]

    def prefill(self, prompts, cache, rows):
        for prompt, row in zip(prompts, rows, strict=True):
            cache.texts[row] += np.asarray(prompt).tolist()
        with no_grad():
            return np.stack([self.model([cache.texts[row]]).data[0, -1] for row in rows])

    def step(self, ids, cache, rows):
        return self.prefill(np.asarray(ids)[:, None], cache, rows)
