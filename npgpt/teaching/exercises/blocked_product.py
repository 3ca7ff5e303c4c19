"""A matrix product by blocks, with matrices that refuse to be multiplied as a whole."""

from functools import partial
from typing import Any

import numpy as np

from npgpt.kernels import KERNELS
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values


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
