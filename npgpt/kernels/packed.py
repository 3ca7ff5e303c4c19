"""Weights packed for products with few rows, as when single tokens are generated, in fewer bits if wanted.

    y = x W + b         x (M, K), W (K, N), b (N,)

Each token reads all weights once, and does so little with each that reading them takes all the time. So a weight of a
quarter of the bits is a token in a quarter of the time. The formats, bits a weight:

    f32     32
    bf16    16      the upper half of a float32, rounded to the nearest: 8 bits of precision
    int8    8.5     W[k, n] = d q, q in -127 ... 127       d = max |W| / 127
    int4    4.5     W[k, n] = d (q - 8), q in 0 ... 15     d = -1/8 of the element of the largest size

The 32 elements k = 32 b ... 32 b + 31 of a column share a scale d, in float16.

int8 and int4 are Q8_0 and Q4_0 of llama.cpp, along W's columns (ggml/src/ggml-quants.c, quantize_row_q8_0_ref and
quantize_row_q4_0_ref).
Their x is rounded in the same way to int8, with a float32 scale, where the CPU has an instruction for products of
8 bits (``HAS_INT8_DOT``); the sums are exact.

In memory W lies in panels of as many columns as two registers have lanes (``tile_columns``; W below stands for that):

    f32     [N / W][K][W]               bf16    [N / W][K / 2][W][2]
    int8    [N / W][K / 4][W][4], a byte holds q + 128
    int4    [N / W][K / 8][W][4], a byte holds q of k and, in its upper half, of k + 4
    scales  [N / W][K / 32][W]

so that a panel is read from its beginning to its end, and a lane of a register works on one column (machine/panels.py).
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
from numba import prange

from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.machine.addresses import array_at
from npgpt.kernels.machine.cpu import HAS_INT8_DOT, UNIT
from npgpt.kernels.machine.microkernel import TILE_ROWS, microkernel, pack_b, pack_transposed_a, pack_transposed_b
from npgpt.kernels.machine.panels import BLOCK, bits_of, is_quantized, multiply_panel, widen_panel
from npgpt.kernels.machine.product import K_BLOCK

FORMATS = ("f32", "bf16", "int8", "int4")
PANEL = UNIT.vectors * UNIT.bytes // 4  # columns
TAGS = {"f32": np.float32(0), "bf16": np.uint16(0), "int8": np.int8(0), "int4": np.uint8(0)}
_OFFSET = {"int8": 128, "int4": 8}


@dataclass(frozen=True)
class PackedMatrix:
    """W (K, N) in one of FORMATS, made by ``pack``. ``scales`` is None for f32 and bf16."""

    format: str
    K: int
    N: int
    weights: np.ndarray
    scales: np.ndarray | None

    @property
    def tag(self) -> np.generic:
        """A scalar whose type tells compiled code the format."""
        return TAGS[self.format]

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def addresses(self) -> tuple[int, int]:
        """Where the weights and the scales begin, for compiled code."""
        return self.weights.ctypes.data, 0 if self.scales is None else self.scales.ctypes.data


def pack(W: np.ndarray, format: str) -> PackedMatrix:
    """W (K, N) of float32, or a transposed view of one -> the packed matrix.

    Raises ValueError if a format is unknown, or an element is not finite or too large for a float16 scale.
    """
    if format not in FORMATS:
        raise ValueError(f"weights are {', '.join(FORMATS)}, not {format!r}")
    if W.ndim != 2 or W.dtype != np.float32:
        raise ValueError(f"only matrices of float32 are packed, not {W.dtype} {W.shape}")
    K, N = W.shape
    panels = -(-N // PANEL)
    scales = None
    if format == "f32":
        weights = _aligned((panels, K, PANEL), np.float32)
        if (W.strides[1] != 4 or W.strides[0] % 4) and (W.strides[0] != 4 or W.strides[1] % 4):
            W = np.ascontiguousarray(W)
        row, column = (stride // 4 for stride in W.strides)
        _copy_to_panels(W.ctypes.data, row, column, N, weights)
        return PackedMatrix(format, K, N, weights, None)
    if format == "bf16":
        weights = _aligned((panels, -(-K // 2), PANEL, 2), np.uint16)
    else:
        blocks = -(-K // BLOCK)
        weights = _aligned((panels, blocks * (8 if format == "int8" else 4), PANEL, 4), np.uint8)
        scales = np.empty((panels, blocks, PANEL), np.float16)
    for first in range(0, panels, 16):  # a part at a time: the whole in float32 and padded would be another copy of W
        part = _columns_of_panels(W, first, min(first + 16, panels))
        _pack_part(part, format, weights[first : first + 16], None if scales is None else scales[first : first + 16])
    return PackedMatrix(format, K, N, weights, scales)


def _aligned(shape, dtype):
    """An empty array that begins at a multiple of 64, so that no register is loaded from two cache lines."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 63, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(dtype).reshape(shape)


@parallel_jit
def _copy_to_panels(W, row, column, N, panels):
    count, K, _ = panels.shape
    for panel in prange(count):
        first = np.int64(panel) * PANEL
        out, zero = np.int64(panels.ctypes.data) + first * K * 4, np.float32(0)
        if column == 1:
            pack_b(W + first * 4, row, N - first, K, out, zero)
        else:
            pack_transposed_b(W + first * column * 4, column, N - first, K, out, zero)


def _columns_of_panels(W, first, end):
    """-> (K rounded up to whole blocks, panels, PANEL), zeros where W ends."""
    K, _N = W.shape
    part = np.zeros((-(-K // BLOCK) * BLOCK, (end - first) * PANEL), np.float32)
    columns = W[:, first * PANEL : end * PANEL]
    part[:K, : columns.shape[1]] = columns
    return part.reshape(len(part), end - first, PANEL)


def _pack_part(W, format, weights, scales):
    K = len(W)
    if format == "bf16":
        pairs = f32_to_bf16(W[: 2 * weights.shape[1]]).reshape(-1, 2, *W.shape[1:])
        weights[...] = pairs.transpose(2, 0, 3, 1)
    else:
        q, d = quantize(W.reshape(-1, BLOCK, *W.shape[1:]), format)  # (blocks, BLOCK, panels, PANEL)
        scales[...] = d.transpose(1, 0, 2)
        q = (q + np.int16(_OFFSET["int8"] if format == "int8" else 0)).astype(np.uint8)
        if format == "int8":
            weights[...] = q.reshape(K // 4, 4, *q.shape[2:]).transpose(2, 0, 3, 1)
        else:
            halves = q.reshape(K // 8, 2, 4, *q.shape[2:])
            weights[...] = (halves[:, 0] | halves[:, 1] << 4).transpose(2, 0, 3, 1)


def quantize(W: np.ndarray, format: str) -> tuple[np.ndarray, np.ndarray]:
    """W (blocks, 32, ...) -> q (blocks, 32, ...) of int8 and d (blocks, ...) of float16. See the top of the file."""
    if format == "int8":
        d = np.abs(W).max(axis=1) / np.float32(127)
    else:
        largest = np.take_along_axis(W, np.abs(W).argmax(axis=1)[:, None], axis=1)[:, 0]
        d = largest / np.float32(-8)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scale = d.astype(np.float16)
        if not np.isfinite(scale).all():
            raise ValueError("NaN, infinity, or a number too large for a scale in float16")
        inverse = np.where(d == 0, np.float32(0), 1 / d)[:, None]
        inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))
    x = W * inverse
    if format == "int8":
        whole = np.trunc(x)
        return (whole + np.trunc(2 * (x - whole))).astype(np.int8), scale
    return np.minimum(np.trunc(x + np.float32(8.5)), 15).astype(np.int8), scale


def unpack(matrix: PackedMatrix) -> np.ndarray:
    """-> W (K, N) of float32, as the format holds it."""
    return columns(matrix, np.arange(matrix.N)).T


def columns(matrix: PackedMatrix, ids: np.ndarray) -> np.ndarray:
    """Columns of W, ids (n,) -> (n, K) of float32: of an embedding that is the vocabulary head, rows of tokens."""
    panel, lane = np.divmod(np.asarray(ids), PANEL)
    values = matrix.weights[panel, :, lane]  # (n, rows of a panel, ...)
    if matrix.format == "f32":
        return values
    if matrix.format == "bf16":
        return bf16_to_f32(values.reshape(len(values), -1)[:, : matrix.K])
    if matrix.format == "int4":
        values = np.stack([values & 15, values >> 4], axis=2)
    q = values.reshape(len(values), -1, BLOCK).astype(np.float32) - _OFFSET[matrix.format]
    d = matrix.scales[panel, :, lane].astype(np.float32)[..., None]
    return (d * q).reshape(len(values), -1)[:, : matrix.K]


def packed_matmul_numpy(x: np.ndarray, matrix: PackedMatrix, bias: np.ndarray | None = None) -> np.ndarray:
    """x (M, K), bias (N,) -> (M, N)"""
    if matrix.format in _OFFSET and HAS_INT8_DOT:
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
    _M, N = y.shape
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
                        M - first, N - column, start, start_row, out, N, zero
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
    """The address of the panel [K][W] in float32: itself, or ``wide`` with the bf16 panel written out."""
    if bits_of(tag) == 32:
        return panel
    address = np.int64(wide.ctypes.data)
    widen_panel(K, panel, address)
    return address
