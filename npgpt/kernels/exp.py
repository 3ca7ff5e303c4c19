"""The exponential, in a form that the compiler can vectorise.

Numba calls the C library's exp once per element. This one is branch-free arithmetic, so a loop over a row becomes
vector instructions and runs several times as fast. float64 is for checking, so it keeps the C library's.

    x = n ln 2 + r,  |r| <= ln 2 / 2        n = x / ln 2, rounded
    exp(x) = 2^n exp(r)                     exp(r) = 1 + r + r^2 p(r), p of degree 5

ln 2 is split in two so that n * LN2_HIGH is exact and r keeps its low bits (Cody & Waite 1980); the coefficients of p
are those of the Cephes library's expf (Moshier). The error is below 1.1 units in the last place.

n is rounded by adding 1.5 * 2^23: a float of that size has no bits left for a fraction, and its last bits are n as an
integer. 2^n is made by writing n into the exponent bits, in two halves, n // 2 and the rest, so that the largest
and the subnormal results are right too. Below -104 the result is 0, and above 89 it is infinity.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.jit import INLINED, exact_jit

_f, _i = np.float32, np.int32
_LOG2_E = _f(1.44269504)
_LN2_HIGH = _f(0.693145752)
_LN2_LOW = _f(1.42860677e-6)
_LOWEST, _HIGHEST = _f(-104), _f(89)
_P5, _P4, _P3 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_P2, _P1, _P0 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)
_ROUNDER = _f(1.5 * 2**23)
_ROUNDER_BITS = _i(_ROUNDER.view(_i))
_ONE_BITS = _i(_f(1).view(_i))


@exact_jit
def _exp_float32(x):
    is_zero = x < _LOWEST  # NaN is neither below nor above, and stays
    x = _f(0) if is_zero else x  # a hidden score, -inf, is common; arithmetic with tiny numbers takes long
    x = _HIGHEST if x > _HIGHEST else x
    shifted = x * _LOG2_E + _ROUNDER
    n = shifted - _ROUNDER
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
    y = p * r * r + r + _f(1)
    i = _f(shifted).view(_i) - _ROUNDER_BITS
    half = i >> _i(1)
    y = y * _i((half << _i(23)) + _ONE_BITS).view(_f)
    y = y * _i(((i - half) << _i(23)) + _ONE_BITS).view(_f)
    return _f(0) if is_zero else y


def exp(x: float) -> float:
    """exp(x) of a scalar, for use inside jitted kernels."""
    return math.exp(x)


@overload(exp, jit_options=INLINED)
def _exp(x):
    if x == types.float32:
        return lambda x: _exp_float32(x)
    return lambda x: math.exp(x)
