"""Top-p, byte-pair merging, and a matrix product by blocks."""

from functools import partial
from typing import Any

import numpy as np

from npgpt.generation import filters
from npgpt.kernels import KERNELS
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values
from npgpt.text import gpt2_bpe

# Top-p


def _top_p(p, mass, count=lambda total, mass: 1 + np.searchsorted(total, mass), ascending=True):
    order = np.argsort(-p, kind="stable")
    kept = order[: count(np.cumsum(p[order]), mass)]
    return np.sort(kept) if ascending else kept


TOP_P = Exercise(
    name="top_p",
    title="Top-p sampling: which tokens are left?",
    task="""
Keep the smallest set of the likeliest tokens that together have at least the
probability ``mass``. The token that crosses the line is in the set. Of tokens
that are equally likely, the first ones are taken first.

Return their positions, ascending.
""",
    read="docs/course/09-sampling.md, npgpt/generation/filters.py (after you tried)",
    signature="top_p(p, mass)",
    gives="p (n,), probabilities; mass, a number above 0 and up to 1 -> positions, whole numbers",
    outputs=("positions",),
    reference=filters.top_p,
    cases=(
        Case("mass 0.5 of 0.4, 0.35, 0.25", {"p": np.array([0.4, 0.35, 0.25]), "mass": 0.5}),
        Case("mass 0.7 of 0.125, 0.5, 0.25, 0.125", {"p": np.array([0.125, 0.5, 0.25, 0.125]), "mass": 0.7}),
        Case("mass 0.75, which two have exactly", {"p": np.array([0.125, 0.5, 0.25, 0.125]), "mass": 0.75}),
        Case("mass 0.1: the likeliest alone", {"p": np.array([0.25, 0.5, 0.25]), "mass": 0.1}),
        Case("mass 1: all", {"p": np.array([0.25, 0.5, 0.25]), "mass": 1.0}),
        Case("four that are equal", {"p": np.full(4, 0.25), "mass": 0.4}),
    ),
    mistakes=(
        Mistake(
            partial(_top_p, count=lambda total, mass: max(1, np.searchsorted(total, mass))),
            "With top_p = 0.5 and tokens of probability 0.4, 0.3, 0.3, which are kept? The token that crosses the line "
            "is missing.",
        ),
        Mistake(
            partial(_top_p, count=lambda total, mass: np.searchsorted(total, mass)),
            "With top_p = 0.5 and tokens of probability 0.4, 0.3, 0.3, which are kept? The token that crosses the line "
            "is missing.",
        ),
        Mistake(
            partial(_top_p, ascending=False),
            "The right tokens, in the order of their probability. Return the positions ascending.",
        ),
        Mistake(
            lambda p, mass: np.sort(np.argsort(p)[::-1][: 1 + np.searchsorted(np.cumsum(np.sort(p)[::-1]), mass)]),
            "Of equally likely tokens you take the last first: sort -p, with kind='stable'.",
        ),
        Mistake(
            partial(_top_p, count=lambda total, mass: 1 + np.searchsorted(total, mass, side="right")),
            "One too many: a set that has the mass exactly has enough.",
        ),
        Mistake(
            lambda p, mass: np.flatnonzero(p >= np.sort(p)[::-1][np.searchsorted(np.cumsum(np.sort(p)[::-1]), mass)]),
            "Several tokens are as likely as the last one that is needed. Keep the first of them, and no more than are "
            "needed.",
        ),
        Mistake(
            lambda p, mass: np.flatnonzero(np.cumsum(p) - p < mass),
            "Take the likeliest tokens first. You take them in the order of their positions.",
        ),
        Mistake(
            lambda p, mass: np.flatnonzero(p >= mass * p.max()),
            "That is min-p. Top-p adds up the probabilities of the likeliest until they have the mass.",
        ),
    ),
)

# Byte-pair encoding


def _package_merge(text, ranks):
    return [gpt2_bpe.tokens()[id] for id in gpt2_bpe.encode(text.decode())]


def _merge(text, ranks, choose, rounds=10_000):
    parts = [bytes([byte]) for byte in text]
    for _ in range(rounds):
        pairs = [(i, ranks[parts[i] + parts[i + 1]]) for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ranks]
        if not pairs:
            break
        i, _ = choose(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _longest_first(text, ranks):
    parts, begin = [], 0
    while begin < len(text):
        end = next(end for end in range(len(text), begin, -1) if text[begin:end] in ranks)
        parts.append(text[begin:end])
        begin = end
    return parts


def _lowest(pairs):
    return min(pairs, key=lambda pair: pair[1])


def _word(text):
    return Case(repr(text), {"text": text.encode(), "ranks": {token: i for i, token in enumerate(gpt2_bpe.tokens())}})


BYTE_PAIRS = Exercise(
    name="byte_pairs",
    title="Byte-pair merging: from bytes to GPT-2's tokens.",
    task="""
A word begins as a list of single bytes. Of all pairs of neighbours that make a
token, merge the one whose token has the lowest rank: it was learned first. If
this pair is there several times, merge the leftmost one. Again, until no two
neighbours make a token.

``ranks`` is GPT-2's table, {token: rank}, with all single bytes in it.
""",
    read="docs/course/README.md, npgpt/text/bpe_training.py, which learns the ranks, and npgpt/text/byte_level.py: "
    "_encoded (after you tried)",
    signature="merge(text, ranks)",
    gives="text, bytes; ranks, {bytes: rank} -> a list of bytes, which joined are the text",
    outputs=("tokens",),
    reference=_package_merge,
    cases=tuple(map(_word, ["the", "bbbbb", "antidisestablish", " hellooo", " xylophones", "é", "q", ""])),
    mistakes=(
        Mistake(
            lambda text, ranks: _merge(text, ranks, choose=lambda pairs: pairs[0]),
            "You merge the leftmost pair that makes a token. Which one was learned first? Take the lowest rank.",
        ),
        Mistake(
            lambda text, ranks: _merge(text, ranks, choose=lambda pairs: max(pairs, key=lambda pair: pair[1])),
            "You merge the pair with the highest rank. The lowest one was learned first.",
        ),
        Mistake(
            _longest_first,
            "You cut off the longest token that fits. The merges decide, in the order in which they were learned.",
        ),
        Mistake(
            lambda text, ranks: _merge(text, ranks, _lowest, rounds=1),
            "That is one merge. Go on until no two neighbours make a token.",
        ),
        Mistake(lambda text, ranks: [bytes([byte]) for byte in text], "These are the single bytes: nothing is merged."),
        Mistake(
            lambda text, ranks: _merge(
                text, ranks, choose=lambda pairs: min(pairs, key=lambda pair: (pair[1], -pair[0]))
            ),
            "If the best pair is there several times, the leftmost one is merged first.",
        ),
    ),
)

# The matrix product


class InMemory(np.ndarray):
    """A matrix in memory. Only blocks of up to ``size`` x ``size`` fit into the cache and can be multiplied."""

    size = 2

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is np.matmul:
            self._check(inputs)
        plain = [np.asarray(x) for x in inputs]
        outputs = {"out": tuple(np.asarray(x) for x in options.pop("out"))} if "out" in options else {}
        return getattr(ufunc, method)(*plain, **options, **outputs)

    def __array_function__(self, function, types, arguments, options):
        if function in (np.dot, np.einsum, np.inner, np.tensordot, np.outer):
            self._check([x for x in arguments if isinstance(x, np.ndarray)])
        return super().__array_function__(function, types, arguments, options)

    def dot(self, other: Any, out: Any = None) -> Any:  # type: ignore[override]
        """The method is the same product."""
        return self @ other

    def _check(self, blocks):
        for block in blocks:
            if max(np.shape(block), default=0) > self.size:
                shape = " x ".join(map(str, np.shape(block)))
                raise ValueError(
                    f"a block of {shape} does not fit into the cache of this exercise: {self.size} x {self.size} does"
                )


def _in_memory(M, K, N):
    return {"A": values(M, K).view(InMemory), "B": values(K, N, seed=1).view(InMemory), "size": InMemory.size}


def _package_product(A, B, size):
    return KERNELS["matmul"]["numpy"](np.array(A), np.array(B))


def _blocks(A, B, size, add=True, whole=False):
    (M, K), N = A.shape, B.shape[1]
    M_end, K_end, N_end = (n - n % size if whole else n for n in (M, K, N))
    C = np.zeros((M, N))
    for i in range(0, M_end, size):
        for j in range(0, N_end, size):
            for k in range(0, K_end, size):
                part = A[i : i + size, k : k + size] @ B[k : k + size, j : j + size]
                C[i : i + size, j : j + size] = part + add * C[i : i + size, j : j + size]
    return C


def _diagonal_blocks(A, B, size):
    """The block (i, j) of the result from the blocks (i, j) of A and B alone"""
    C = np.zeros((len(A), B.shape[1]))
    for i in range(0, len(A), size):
        for j in range(0, B.shape[1], size):
            a, b = A[i : i + size, j : j + size], B[i : i + size, j : j + size]
            if a.shape[1] == len(b) and a.size and b.size:
                C[i : i + size, j : j + size] = a @ b
    return C


BLOCKED_PRODUCT = Exercise(
    name="blocked_product",
    title="A matrix product by blocks.",
    task="""
Large matrices don't fit into the cache, and blocks of them do. Compute C = A B
by products of blocks of at most ``size`` x ``size``: a larger product is
refused here. The block of C at (i, j) is the sum over k of

    (block of A at (i, k)) @ (block of B at (k, j))

The sizes need not be multiples of ``size``: the last blocks may be smaller.
""",
    read="docs/course/10-fast-kernels.md, npgpt/kernels/blocked_product.py (after you tried)",
    signature="product(A, B, size)",
    gives="A (M, K), B (K, N), size, a whole number -> C (M, N)",
    outputs=("C",),
    reference=_package_product,
    cases=(
        Case("4 x 4 and 4 x 4, in blocks of 2 x 2", _in_memory(4, 4, 4)),
        Case("5 x 3 and 3 x 4: smaller blocks at the ends", _in_memory(5, 3, 4)),
        Case("1 x 6 and 6 x 1", _in_memory(1, 6, 1)),
        Case("2 x 0 and 0 x 3: nothing to add up", _in_memory(2, 0, 3)),
    ),
    mistakes=(
        Mistake(
            partial(_blocks, add=False),
            "The last block of k overwrites the ones before. Each block of C is a sum: add to it.",
        ),
        Mistake(
            partial(_blocks, whole=True),
            "The blocks at the ends are left out. What is the last block of 5 rows in steps of 2?",
        ),
        Mistake(
            _diagonal_blocks,
            "Only blocks at the same place are multiplied. The third loop, over k, is missing.",
        ),
        Mistake(
            lambda A, B, size: A @ B,
            "That is the whole product at once. Multiply blocks: A[i : i + size, k : k + size] is one.",
        ),
    ),
)
