"""The normal distribution, in a form that the compiler can vectorise. (The math library's erf is a call per element.)

    Phi(x) = (1 + erf(x / sqrt 2)) / 2      the probability that a normal variable is below x

The lower tail, of x <= 0, is exp(-x^2 / 2) times a smooth and slowly falling function of |x|, a polynomial in
t = 1 / (1 + p |x|) (Hastings 1955; Abramowitz & Stegun 1964, 26.2.17):

    Phi(-|x|) = exp(-x^2 / 2) t (C0 + C1 t + ... + C8 t^8)      Phi(|x|) = 1 - Phi(-|x|)

p and the C_i were fitted for this file, by repeated weighted least squares on 0 <= |x| <= 14.5. Beyond that, float32
has no number as small as the tail. Their largest relative error is 2.4e-8, less than half a unit in the last place.
Rounding adds to it, above all that of x^2 in the exponent: Phi is wrong by about 7 half units near 0, and by 20 at -6.
float64 is for checking and keeps the math library's erf.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.exp import _exp_float32
from npgpt.kernels.jit import INLINED, exact_jit

_f = np.float32
_P = _f(0.27)
_C0, _C1, _C2 = _f(0.10772065646226338), _f(0.1075428814031766), _f(0.10181053470719446)
_C3, _C4, _C5 = _f(0.07204998260110072), _f(0.10782455804198732), _f(-0.06920892557567256)
_C6, _C7, _C8 = _f(0.1697842966337915), _f(-0.12648483680910474), _f(0.028960864397722906)
_BEYOND = _f(15)  # Phi is 0 or 1 from here on, and the square of a much larger x would be infinite


@exact_jit
def _normal_cdf_float32(x):
    size = -x if x < _f(0) else x  # NaN stays
    size = _BEYOND if size > _BEYOND else size
    t = _f(1) / (_f(1) + _P * size)
    q = ((((_C8 * t + _C7) * t + _C6) * t + _C5) * t + _C4) * t + _C3
    tail = _exp_float32(_f(-0.5) * size * size) * t * (((q * t + _C2) * t + _C1) * t + _C0)
    return tail if x < _f(0) else _f(1) - tail


def normal_cdf(x: float) -> float:
    """Phi(x) of a scalar, for use inside jitted kernels."""
    return 0.5 + 0.5 * math.erf(x * math.sqrt(0.5))


@overload(normal_cdf, jit_options=INLINED)
def _normal_cdf(x):
    if x == types.float32:
        return lambda x: _normal_cdf_float32(x)
    return lambda x: 0.5 + 0.5 * math.erf(x * math.sqrt(0.5))
