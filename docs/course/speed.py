"""python docs/course/speed.py [N] : the matrix product of chapter 10, from Python's loops to tiles, on this machine.

Two N x N matrices of float32 (768 if N is left out). Python's loops get a smaller one: they would take minutes.
"""

import argparse
from functools import partial
from time import perf_counter

import numpy as np
from numba import njit

from npgpt.kernels import KERNELS
from npgpt.process import run


def loops(A, B, C):
    """The textbook's order: the innermost loop goes down a column of B."""
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            for k in range(A.shape[1]):
                C[i, j] += A[i, k] * B[k, j]


def rows(A, B, C):
    """The innermost loop goes along a row of B and a row of C."""
    for i in range(A.shape[0]):
        for k in range(A.shape[1]):
            for j in range(B.shape[1]):
                C[i, j] += A[i, k] * B[k, j]


def into(product):
    """A kernel that returns its result, as a function that writes it to C."""

    def write(A, B, C):
        C[...] = product(A, B)

    return write


def versions(n: int) -> list:
    """(what it is, function of A, B and C, size) of each version"""
    kernels = KERNELS["matmul"]
    return [
        ("Python's loops", loops, min(n, 64)),
        ("compiled", njit(loops), n),
        ("compiled, along rows", njit(rows), n),
        ("in tiles, all cores", into(kernels["numba"]), n),
        ("NumPy, all cores", into(kernels["numpy"]), n),
    ]


def best_time(function, n: int, seconds: float) -> float:
    """The shortest time of a call, of as many as fit into ``seconds``; the first one, which compiles, is checked."""
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
    C = np.zeros((n, n), np.float32)
    function(A, B, C)
    assert np.allclose(C, A @ B, atol=1e-4 * n), "the product is wrong"
    times, end = [], perf_counter() + seconds
    while not times or perf_counter() < end:
        C[...] = 0
        start = perf_counter()
        function(A, B, C)
        times.append(perf_counter() - start)
    return min(times)


def main(n: int = 768, seconds: float = 1.0) -> int:
    print(f"{'':24}{'size':>6}{'ms':>10}{'billion operations/s':>24}")
    for name, function, size in versions(n):
        time = best_time(function, size, seconds)
        print(f"{name:24}{size:6}{time * 1000:10.2f}{2 * size**3 / time / 1e9:24.3f}", flush=True)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the matrix product of chapter 10, from Python's loops to tiles.")
    parser.add_argument("n", nargs="?", type=int, default=768, help="rows and columns of the matrices")
    n = parser.parse_args().n
    if n < 1:
        parser.error(f"n must be at least 1, not {n}")
    run(partial(main, n))
