"""GELU, the Gaussian error linear unit (Hendrycks & Gimpel 2016): y = x P(X < x), with a standard normal X.

Exact form.     Phi(x) = P(X < x) = (1 + erf(x / sqrt 2)) / 2       y = x Phi(x)

    The derivative of a distribution is its density: ∂Phi/∂x = phi(x) = exp(-x^2 / 2) / sqrt(2 pi). By the product rule

    dx = dy (Phi(x) + x phi(x))

GPT-2's form.   u = sqrt(2 / pi) (x + 0.044715 x^3)     s = (1 + tanh u) / 2        y = x s

    ∂u/∂x = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
    ∂s/∂u = (1 - tanh^2 u) / 2 = 2 s (1 - s)            since 1 - tanh u = 2 (1 - s) and 1 + tanh u = 2 s
    ∂s/∂x = 2 s (1 - s) ∂u/∂x

    dx = dy (s + x ∂s/∂x) = dy (s + x 2 s (1 - s) ∂u/∂x)

    s is also 1 / (1 + exp(-2u)), the logistic function of 2u, which takes one exponential.
"""

import math

import numpy as np
from numba import prange, types
from numba.extending import overload

from npgpt.kernels.chunks import chunk_view, elementwise, n_chunks
from npgpt.kernels.exp import exp
from npgpt.kernels.jit import FASTMATH, INLINED, parallel_jit
from npgpt.kernels.normal_cdf import normal_cdf

_ROOT = math.sqrt(2 / math.pi)
_TWICE_ROOT = 2 * _ROOT  # the Numba versions compute s as 1 / (1 + exp(-2u))
_CUBIC = 0.044715
_SATURATED = 100.0  # from here on tanh u is 1 to the last bit. A larger x could overflow, and 0 * inf is NaN

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_tanh_forward_numpy(x: np.ndarray) -> np.ndarray:
    """x (...) -> y (...)"""
    t = np.clip(x, -_SATURATED, _SATURATED)
    s = 0.5 * (1 + np.tanh(_ROOT * t * (1 + _CUBIC * t * t)))
    return x * s


def gelu_tanh_backward_numpy(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dy, x (...) -> dx (...)"""
    t = np.clip(x, -_SATURATED, _SATURATED)
    s = 0.5 * (1 + np.tanh(_ROOT * t * (1 + _CUBIC * t * t)))
    return dy * (s + t * (2 * s * (1 - s)) * (_ROOT * (1 + 3 * _CUBIC * t * t)))


def gelu_forward_numpy(x: np.ndarray) -> np.ndarray:
    """x (...) -> y (...)"""
    return x * (0.5 + 0.5 * _erf(x * math.sqrt(0.5))).astype(x.dtype)


def gelu_backward_numpy(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dy, x (...) -> dx (...)"""
    Phi = (0.5 + 0.5 * _erf(x * math.sqrt(0.5))).astype(x.dtype)
    return dy * (Phi + x * np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


def gelu_tanh(x: float) -> float:
    """GPT-2's GELU of a scalar, for use inside jitted kernels: x / (1 + exp(-2u))."""
    return x / (1 + math.exp(-_TWICE_ROOT * x * (1 + _CUBIC * x * x)))


@overload(gelu_tanh, jit_options={"fastmath": FASTMATH, **INLINED})
def _gelu_tanh(x):
    scalar = np.float32 if x == types.float32 else np.float64
    a, b, one = scalar(-_TWICE_ROOT), scalar(-_TWICE_ROOT * _CUBIC), scalar(1)
    return lambda x: x / (one + exp(x * (a + b * x * x)))


def gelu_tanh_forward_numba(x: np.ndarray) -> np.ndarray:
    """One pass, chunks in parallel, by the form with one exponential."""
    return elementwise(_tanh_forward, x)


@parallel_jit
def _tanh_forward(x, y):
    for chunk in prange(n_chunks(x.size)):
        x_part, y_part = chunk_view(x, chunk), chunk_view(y, chunk)
        for i in range(x_part.size):
            y_part[i] = gelu_tanh(x_part[i])


def gelu_tanh_backward_numba(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One pass, chunks in parallel. s is computed again, not kept.

    s (1 - s) is computed as e / (1 + e)^2, e = exp(-|2u|). Where s is nearly 1, 1 - s would lose most of its digits.
    """
    return elementwise(_tanh_backward, dy, x)


@parallel_jit
def _tanh_backward(dy, x, dx):
    scalar = x.dtype.type
    a, b, one, limit = scalar(_TWICE_ROOT), scalar(_TWICE_ROOT * _CUBIC), scalar(1), scalar(_SATURATED)
    for chunk in prange(n_chunks(x.size)):
        x_part, dy_part, dx_part = chunk_view(x, chunk), chunk_view(dy, chunk), chunk_view(dx, chunk)
        for i in range(x_part.size):
            v = x_part[i]
            v = limit if v > limit else v
            v = -limit if v < -limit else v
            e = exp(-abs(v) * (a + b * v * v))
            r = one / (one + e)
            s = r if v > 0 else e * r
            dx_part[i] = dy_part[i] * (s + v * (e * r * r) * (a + scalar(3) * b * v * v))


def gelu_forward_numba(x: np.ndarray) -> np.ndarray:
    """One pass, chunks in parallel."""
    return elementwise(_exact_forward, x)


@parallel_jit
def _exact_forward(x, y):
    for chunk in prange(n_chunks(x.size)):
        x_part, y_part = chunk_view(x, chunk), chunk_view(y, chunk)
        for i in range(x_part.size):
            y_part[i] = x_part[i] * normal_cdf(x_part[i])


def gelu_backward_numba(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One pass, chunks in parallel."""
    return elementwise(_exact_backward, dy, x)


@parallel_jit
def _exact_backward(dy, x, dx):
    scalar = x.dtype.type
    half, scale = scalar(-0.5), scalar(1 / math.sqrt(2 * math.pi))
    for chunk in prange(n_chunks(x.size)):
        x_part, dy_part, dx_part = chunk_view(x, chunk), chunk_view(dy, chunk), chunk_view(dx, chunk)
        for i in range(x_part.size):
            v = x_part[i]
            dx_part[i] = dy_part[i] * (normal_cdf(v) + v * exp(half * v * v) * scale)
