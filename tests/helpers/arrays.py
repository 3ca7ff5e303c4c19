"""Arrays for Hypothesis to draw: number formats, kinds of values, and ways to lie in memory."""

import ctypes

import numpy as np
from hypothesis import strategies as st
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

from npgpt import Tensor

dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)

# An axis is empty now and then, but most arrays are not. Sizes are around those at which vector loops, and blocks of
# 64, begin another piece.
few = st.sampled_from([1, 1, 2, 2, 3, 3, 4, 4, 0])
small_sizes = st.integers(0, 9)
positive_sizes = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 33, 63, 64, 65, 70, 129]))
sizes = st.one_of(small_sizes, positive_sizes)
shapes = st.lists(small_sizes, max_size=3).map(tuple) | st.tuples(st.integers(1, 3), st.integers(60, 70))
leading = st.lists(few, max_size=3).map(tuple)  # B, T ...: the axes before the one that is worked along


def leaf(x, dtype=np.float64) -> Tensor:
    """A tensor that collects a gradient."""
    return Tensor(np.array(x, dtype), requires_grad=True)


@st.composite
def rows(draw, sizes=positive_sizes):
    """(..., N), now and then a few rows as long as a vocabulary."""
    if draw(st.integers(0, 15)) == 15:
        return draw(st.integers(1, 3)), 5000
    return (*draw(leading), draw(sizes))


@st.composite
def values(draw, shape, dtype, largest=1e4):
    """An array of one of the kinds of values that break numerical code; none above ``largest`` in size."""
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["normal", "normal", "large", "tiny", "wide", "constant rows", "whole numbers"]))
    x = rng.standard_normal(shape)
    if kind == "large":
        x *= largest
    elif kind == "tiny":
        x *= 1e-6
    elif kind == "wide":  # large and small values side by side
        x *= np.exp(rng.uniform(np.log(1e-6), np.log(largest), shape))
    elif kind == "constant rows":
        x = np.broadcast_to(x[..., :1], shape) * 1.0
    elif kind == "whole numbers":  # many of them equal, many zero
        x = np.round(x)
    return np.clip(x, -largest, largest).astype(dtype)


def lay_out(x, layout):
    """The same values at other addresses. Between them lies NaN, which shows if a kernel reads it."""
    if layout == "contiguous":
        return np.ascontiguousarray(x)
    if layout == "reversed":
        backwards = (slice(None, None, -1),) * x.ndim
        return np.ascontiguousarray(x[backwards])[backwards]
    if layout == "slice":  # of a wider array, as q, k and v are slices of qkv
        wide = np.full((*x.shape[:-1], x.shape[-1] + 3), np.nan, x.dtype)
        wide[..., 1:-2] = x
        return wide[..., 1:-2]
    if layout == "every second":
        spread = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
        spread[..., ::2] = x
        return spread[..., ::2]
    if layout == "transposed":  # and a slice, so that it isn't contiguous in either order
        return lay_out(x.T, "slice").T
    raise ValueError(layout)


VIEWS = ["reversed", "slice", "every second", "transposed"]
layouts = st.sampled_from(["contiguous", *VIEWS])


@st.composite
def arrays(draw, shape, dtype, largest=1e4, layouts=layouts):
    """``values`` in one of the ``layouts``."""
    return lay_out(draw(values(shape, dtype, largest)), draw(layouts))


def copy_of(x):
    """A copy of an array, with its strides and the memory between its elements. Anything else is returned as it is."""
    if not isinstance(x, np.ndarray) or x.size == 0:
        return x
    low, high = byte_bounds(x)
    memory = np.frombuffer(bytearray(ctypes.string_at(low, high - low)), x.dtype)
    return as_strided(memory[(x.ctypes.data - low) // x.itemsize :], x.shape, x.strides)


def as_dtype(x, dtype):
    """A floating-point array in another precision. Anything else is returned as it is."""
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


@st.composite
def normal(draw, shape):
    """float32 from a normal distribution of one of three sizes, for comparisons with torch."""
    x = np.random.default_rng(draw(seeds)).standard_normal(shape) * draw(st.sampled_from([0.01, 1, 5]))
    return x.astype(np.float32)
