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

In memory W lies in panels of P columns, as many as the registers of a product's tile have lanes (``PANEL``):

    f32     [N / P][K][P]               bf16    [N / P][K / 2][P][2]
    int8    [N / P][K / 4][P][4], a byte holds q + 128
    int4    [N / P][K / 8][P][4], a byte holds q of k and, in its upper half, of k + 4
    scales  [N / P][K / 32][P]

so that a panel is read from its beginning to its end, and a lane of a register works on one column (machine/panels.py).
"""

from dataclasses import dataclass

import numpy as np
from numba import prange

from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16
from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.memory import empty
from npgpt.kernels.machine.microkernel import pack_b, pack_transposed_b
from npgpt.kernels.machine.panels import BLOCK

PANEL = UNIT.vectors * UNIT.bytes // 4  # columns
TAGS = {"f32": np.float32(0), "bf16": np.uint16(0), "int8": np.int8(0), "int4": np.uint8(0)}
FORMATS = tuple(TAGS)
OFFSET = {"int8": 128, "int4": 8}


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
        weights = empty((panels, K, PANEL), np.float32)
        if (W.strides[1] != 4 or W.strides[0] % 4) and (W.strides[0] != 4 or W.strides[1] % 4):
            W = np.ascontiguousarray(W)
        row, column = (stride // 4 for stride in W.strides)
        _copy_to_panels(W.ctypes.data, row, column, N, weights)
        return PackedMatrix(format, K, N, weights, None)
    if format == "bf16":
        weights = empty((panels, -(-K // 2), PANEL, 2), np.uint16)
    else:
        blocks = -(-K // BLOCK)
        weights = empty((panels, blocks * (8 if format == "int8" else 4), PANEL, 4), np.uint8)
        scales = np.empty((panels, blocks, PANEL), np.float16)
    for first in range(0, panels, 16):  # a part at a time: the whole in float32 and padded would be another copy of W
        part = _columns_of_panels(W, first, min(first + 16, panels))
        _pack_part(part, format, weights[first : first + 16], None if scales is None else scales[first : first + 16])
    return PackedMatrix(format, K, N, weights, scales)


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
    K = len(W)
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
        q = (q + np.int16(OFFSET["int8"] if format == "int8" else 0)).astype(np.uint8)
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
    q = values.reshape(len(values), -1, BLOCK).astype(np.float32) - OFFSET[matrix.format]
    d = matrix.scales[panel, :, lane].astype(np.float32)[..., None]
    return (d * q).reshape(len(values), -1)[:, : matrix.K]
