"""Products of a few rows with packed weights: y = x W + b.   packed.py says how W (K, N) is held

Each panel of W is read once, and the rows of x are multiplied with it: f32 and bf16 as in a large product if there are
several rows, int8 and int4 row by row, from the cache. x is rounded to int8 with int8 and int4, in blocks of 32 with a
float32 scale, where the CPU has an instruction for products of 8 bits (``HAS_INT8_DOT``).
"""

import numba
import numpy as np
from numba import prange

from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.addresses import array_at
from npgpt.kernels.machine.cpu import HAS_INT8_DOT
from npgpt.kernels.machine.microkernel import TILE_ROWS, microkernel, pack_transposed_a
from npgpt.kernels.machine.panels import BLOCK, bits_of, is_quantized, multiply_panel, widen_panel
from npgpt.kernels.machine.product import K_BLOCK
from npgpt.kernels.packed import OFFSET, PANEL, PackedMatrix, unpack


def packed_matmul_numpy(x: np.ndarray, matrix: PackedMatrix, bias: np.ndarray | None = None) -> np.ndarray:
    """x (M, K), bias (N,) -> (M, N)"""
    if matrix.format in OFFSET and HAS_INT8_DOT:
        x = _rounded_to_int8(x)
    y = x @ unpack(matrix)
    return y if bias is None else y + bias


def _rounded_to_int8(x):
    blocks = np.zeros((len(x), -(-x.shape[1] // BLOCK), BLOCK), np.float32)
    blocks.reshape(len(x), -1)[:, : x.shape[1]] = x
    d = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / d
    inverse[inverse == np.inf] = 0  # of 0, and of what is nearly 0
    return (np.rint(blocks * inverse) * d).reshape(len(x), -1)[:, : x.shape[1]]


def packed_matmul_numba(x: np.ndarray, matrix: PackedMatrix, bias: np.ndarray | None = None) -> np.ndarray:
    """Panels in parallel. A row's result has the same bits whatever rows are beside it."""
    if x.ndim != 2 or x.shape[1] != matrix.K or x.dtype != np.float32:
        raise ValueError(f"x must be float32 (M, {matrix.K}), not {x.dtype} {x.shape}")
    if bias is not None and (bias.shape != (matrix.N,) or bias.dtype != np.float32):
        raise ValueError(f"the bias must be float32 ({matrix.N},), not {bias.dtype} {bias.shape}")
    x = np.ascontiguousarray(x)
    bias = None if bias is None else np.ascontiguousarray(bias)
    y = np.empty((len(x), matrix.N), np.float32)
    if not y.size:
        return y
    _multiply(
        x, *matrix.addresses(), 0 if bias is None else bias.ctypes.data, y, numba.get_num_threads(), matrix.tag,
        work=matrix.K * matrix.N // 4
    )  # fmt: skip
    return y


@parallel_jit
def _multiply(x, weights, scales, bias, y, parts, tag):
    N = y.shape[1]
    panels = (N + PANEL - 1) // PANEL
    for part in prange(parts):
        begin, end = panels * part // parts, panels * (part + 1) // parts
        multiply_panels(x, weights, scales, bias, y, begin, end, tag)


@jit
def multiply_panels(x, weights, scales, bias, y, begin, end, tag):
    """The columns of y = x W + bias in the panels from ``begin`` to ``end``, on one thread; addresses but x and y.

    f32 and bf16 add up in the order of ``gemm``, so a row has the same bits as in a large product of many.
    """
    M, K = x.shape
    N = y.shape[1]
    padded = (K + BLOCK - 1) // BLOCK * BLOCK
    x_address, y_address = np.int64(x.ctypes.data), np.int64(y.ctypes.data)
    if is_quantized(tag):
        row_bytes = padded * 4 + padded // BLOCK * 8
        rows = np.empty(M * row_bytes, np.uint8)
        address = np.int64(rows.ctypes.data)
        for m in range(M):
            _prepare_row(x[m], address + m * row_bytes, padded, tag)
        panel_bytes, scale_bytes = _panel_bytes(padded, tag), padded // BLOCK * PANEL * 2
        for panel in range(begin, end):
            column = panel * PANEL
            for m in range(M):
                row = address + m * row_bytes
                multiply_panel(
                    K, row, row + padded * 4, row + padded * 4 + padded // BLOCK * 4, weights + panel * panel_bytes,
                    scales + panel * scale_bytes, bias + column * 4 if bias else 0, N - column,
                    y_address + (m * N + column) * 4, tag
                )  # fmt: skip
        rows[0] = 0  # keep it alive, see machine/product.py
    elif M == 1:
        row = np.empty(K + 1, np.float32)
        for k in range(K):
            row[k] = x[0, k]
        row[K] = np.float32(0)
        for panel in range(begin, end):
            column = panel * PANEL
            at, out = weights + panel * _panel_bytes(K, tag), y_address + column * 4
            start = bias + column * 4 if bias else 0
            for k in range(0, K, K_BLOCK):
                multiply_panel(
                    min(K_BLOCK, K - k), np.int64(row.ctypes.data) + k * 4, 0, 0, at + k * PANEL * bits_of(tag) // 8, 0,
                    start, N - column, out, tag
                )  # fmt: skip
                start = out
        row[0] = 0
    else:
        groups = (M + TILE_ROWS - 1) // TILE_ROWS
        tiles, wide = np.empty(groups * TILE_ROWS * K, np.float32), np.empty((K + 1) * PANEL, np.float32)
        tiles_address, zero = np.int64(tiles.ctypes.data), np.float32(0)
        for i in range(groups):
            first = i * TILE_ROWS
            pack_transposed_a(x_address + first * K * 4, K, M - first, K, tiles_address + first * K * 4, zero)
        for panel in range(begin, end):
            column = panel * PANEL
            at = _as_float32(weights + panel * _panel_bytes(K, tag), K, wide, tag)
            for i in range(groups):
                first = i * TILE_ROWS
                out = y_address + (first * N + column) * 4
                start, start_row = bias + column * 4 if bias else 0, 0
                for k in range(0, K, K_BLOCK):
                    microkernel(
                        min(K_BLOCK, K - k), tiles_address + (first * K + k * TILE_ROWS) * 4, at + k * PANEL * 4,
                        M - first, N - column, start, start_row, out, N, at, 0, zero
                    )  # fmt: skip
                    start, start_row = out, N
        tiles[0] = np.float32(0)
        wide[0] = np.float32(0)


@jit
def _panel_bytes(K, tag):
    """The size of a panel; K is a multiple of 32 for int8 and int4."""
    return (K + 1) // 2 * PANEL * 4 if bits_of(tag) == 16 else K * PANEL * bits_of(tag) // 8


@jit
def _prepare_row(x, address, padded, tag):
    """Write a row of x as ``multiply_panel`` reads it: its elements, the blocks' scales and the sums' starts."""
    K, blocks = x.size, padded // BLOCK
    scales = array_at(address + padded * 4, blocks, np.float32(0))
    if HAS_INT8_DOT:
        offset = 1 << (bits_of(tag) - 1)
        whole = array_at(address, padded, np.int8(0))
        starts = array_at(address + padded * 4 + blocks * 4, blocks, np.int32(0))
        for b in range(blocks):
            first = b * BLOCK
            block, out = x[first : min(K, first + BLOCK)], whole[first : first + BLOCK]
            largest, nothing = np.float32(0), np.float32(0)
            for i in range(block.size):
                largest = max(largest, abs(block[i]))
                nothing += block[i] * np.float32(0)  # NaN if an element isn't finite, and then so is the result
            scales[b] = largest / np.float32(127) + nothing
            inverse = np.float32(1) / scales[b]
            if not inverse < np.float32(np.inf):  # of 0, of what is nearly 0, and of NaN
                inverse = np.float32(0)
            total = np.int32(0)
            for i in range(block.size, BLOCK):
                out[i] = 0
            for i in range(block.size):
                q = np.int32(np.rint(block[i] * inverse))
                out[i] = q
                total += q
            starts[b] = -offset * total
    else:
        floats = array_at(address, padded, np.float32(0))
        for k in range(padded):
            floats[k] = x[k] if k < K else np.float32(0)
        for b in range(blocks):
            scales[b] = np.float32(1)


@jit
def _as_float32(panel, K, wide, tag):
    """The address of the panel [K][P] in float32: itself, or ``wide`` with the bf16 panel written out."""
    if bits_of(tag) == 32:
        return panel
    address = np.int64(wide.ctypes.data)
    widen_panel(K, panel, address)
    return address
