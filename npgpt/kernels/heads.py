"""Heads of attention for compiled code: where their vectors lie in an array, and products with packed keys."""

from typing import NamedTuple

import numpy as np

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.product import K_BLOCK, first_panel, multiply_packed, pack_all, panels_at
from npgpt.kernels.machine.region import NOTHING


class Strided(NamedTuple):
    """Address and strides of a read-only array. Passing the array itself would compile a kernel for each layout."""

    address: int
    batch_stride: int  # in bytes
    position_stride: int
    head_stride: int
    stride: int  # position_stride in elements


def strided(x: np.ndarray) -> Strided:
    """x (B, T, H, D), whose last axis is contiguous -> its address and strides"""
    return Strided(x.ctypes.data, *x.strides[:3], x.strides[1] // x.itemsize)


@jit
def element_ptr(x, b, t, h):
    """The address of element (b, t, h, 0)."""
    return x.address + b * x.batch_stride + t * x.position_stride + h * x.head_stride


@jit
def data_ptr(x):
    """The address of the first element."""
    return np.int64(x.ctypes.data)


@jit
def stride_of(x):
    """Elements from one position of (B, T, H, D) to the next."""
    return x.strides[1] // x.itemsize


def with_contiguous_heads(*arrays: np.ndarray) -> list[np.ndarray]:
    """Copy arrays whose heads are not contiguous or whose positions overlap; slices of (B, T, 3C) need no copy."""
    size = arrays[0].itemsize
    D = arrays[0].shape[-1]
    ok = [x.strides[3] == size and x.strides[1] >= size * D and x.strides[1] % size == 0 for x in arrays]
    return [x if good else np.ascontiguousarray(x) for x, good in zip(arrays, ok, strict=True)]


@jit
def packed_rows(x, b, h, T, D, dtype_tag):
    """A head's x (T, D) in panels of its rows, for ``rows_times``: one block of queries after the other."""
    panels = np.empty(panels_at(0, T, D, True, dtype_tag) + 64, np.uint8)
    pack_all(element_ptr(x, b, 0, h), x.stride, 1, T, D, 0, T, True, first_panel(panels), dtype_tag)
    return panels


@jit
def packed_columns(x, b, h, T, D, dtype_tag):
    """A head's x (T, D) in panels of its columns, for ``times_columns``."""
    panels = np.empty(panels_at(0, D, T, False, dtype_tag) + 64, np.uint8)
    pack_all(element_ptr(x, b, 0, h), 1, x.stride, D, T, 0, D, False, first_panel(panels), dtype_tag)
    return panels


@jit
def rows_times(packed, T, n_keys, x, b, i0, h, n, D, out, dtype_tag):
    """Write out[:n_keys, :n]: the first ``n_keys`` of T packed rows times n queries of x (B, Tq, H, D) from i0 on."""
    size = out.itemsize
    for k0 in range(0, D, K_BLOCK):
        k = min(K_BLOCK, D - k0)
        multiply_packed(
            n_keys, n, k, element_ptr(x, b, i0, h) + k0 * size, x.stride, 1, False,
            panels_at(first_panel(packed), T, k0, True, dtype_tag), k, data_ptr(out) if k0 else 0, out.shape[1],
            data_ptr(out), out.shape[1], 0, NOTHING, dtype_tag
        )  # fmt: skip


@jit
def times_columns(S, n_keys, n, packed, T, D, out, out_row, dtype_tag):
    """Write (n, D) at ``out``: S[:n_keys, :n]^T times the first ``n_keys`` of T packed steps."""
    size, W = S.itemsize, S.shape[1]
    for k0 in range(0, n_keys, K_BLOCK):
        multiply_packed(
            n, D, min(K_BLOCK, n_keys - k0), data_ptr(S) + k0 * W * size, 1, W, True,
            panels_at(first_panel(packed), D, k0, False, dtype_tag), min(K_BLOCK, T - k0), out if k0 else 0, out_row,
            out, out_row, 0, NOTHING, dtype_tag
        )  # fmt: skip
