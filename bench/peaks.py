"""python -m bench.peaks : this machine's peaks of float32 products and of reading memory, by npgpt's own kernels."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from time import perf_counter

import numba
import numpy as np
from numba import prange

from npgpt.kernels.machine.microkernel import TILE_ROWS, microkernel, tile_columns

K, TIMES = 256, 4000
ELEMENTS = 1 << 26  # 256 MB, more than any cache holds


@numba.njit(parallel=True)
def _tiles(memory, threads):
    """Products from registers and the first-level cache alone: each thread computes the same tile again and again."""
    for thread in prange(threads):
        here = np.int64(memory[thread].ctypes.data)
        B = here + (here % -64) + 64 + 4 * TILE_ROWS * K  # A is before it, and the tile of C after it
        for _ in range(TIMES):
            W = tile_columns(np.float32(0))
            microkernel(K, B - 4 * TILE_ROWS * K, B, TILE_ROWS, W, 0, 0, B + 4 * W * K, W, B, 0, np.float32(0))


@numba.njit(parallel=True, fastmath={"reassoc"})
def _read(x):
    """The sum of x, by rows of 64 KB: a loop that begins at 0 becomes vector instructions."""
    total = np.float32(0)
    for r in prange(x.shape[0]):
        row, part = x[r], np.float32(0)
        for i in range(row.size):
            part += row[i]
        total += part
    return total


def measure() -> dict[str, float]:
    """{"gflops": float32 products, "gbytes": reading memory}, each the best of ten"""
    threads = numba.get_num_threads()
    memory = np.ones((threads, 1 << 18), np.float32)
    W = numba.njit(lambda: tile_columns(np.float32(0)))()
    x = np.ones((ELEMENTS >> 14, 1 << 14), np.float32)
    flops = 2 * TILE_ROWS * W * K * TIMES * threads
    return {
        "gflops": flops / _best(lambda: _tiles(memory, threads)) / 1e9,
        "gbytes": x.nbytes / _best(lambda: _read(x)) / 1e9,
    }


def _best(function):
    function()
    times = []
    for _ in range(10):
        began = perf_counter()
        function()
        times.append(perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()  # --help alone
    print(json.dumps(measure()))
