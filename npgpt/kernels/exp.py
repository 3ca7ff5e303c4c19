"""The exponential, in a form that the compiler can vectorise.

Numba calls the C library's exp once per element. This one is branch-free arithmetic, so a loop over a row becomes
vector instructions and runs about five times as fast. float64 is for checking, so it keeps the C library's.

    x = n ln 2 + r,  |r| <= ln 2 / 2        n = floor(x / ln 2 + 1/2)
    exp(x) = 2^n exp(r)                     exp(r) = 1 + r + r^2 p(r), p of degree 5

ln 2 is split in two so that n * LN2_HIGH is exact and r keeps its low bits (Cody & Waite 1980); the coefficients of p
are those of the Cephes library's expf (Moshier). 2^n is made by writing n into the exponent bits, in two halves so that
the largest and the subnormal results come out too. The error is below 1.1 units in the last place.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.jit import FASTMATH, exact_jit

_f = np.float32
_LOG2_E = _f(1.44269504)
_LN2_HIGH = _f(0.693145752)
_LN2_LOW = _f(1.42860677e-6)
_OVERFLOW = _f(88.7228394)
_UNDERFLOW = _f(-103.972084)
_P5, _P4, _P3 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_P2, _P1, _P0 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)


@exact_jit
def _exp_float32(x):
    clamped = x if x > _UNDERFLOW else _UNDERFLOW  # NaN goes to the bound here and is put back at the end
    clamped = clamped if clamped < _OVERFLOW else _OVERFLOW
    n = np.floor(clamped * _LOG2_E + _f(0.5))
    r = clamped - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
    y = p * r * r + r + _f(1)
    i = np.int32(n)
    half = i >> np.int32(1)
    y = y * np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    y = y * np.int32((i - half + np.int32(127)) << np.int32(23)).view(np.float32)
    y = _f(np.inf) if x > _OVERFLOW else y
    y = _f(0) if x < _UNDERFLOW else y
    return y if x == x else x


def exp(x):
    """exp(x) of a scalar, for use inside jitted kernels."""
    return math.exp(x)


@overload(exp, jit_options={"fastmath": FASTMATH, "error_model": "numpy"}, inline="never")
def _exp(x):
    if x == types.float32:
        return lambda x: _exp_float32(x)
    return lambda x: math.exp(x)
