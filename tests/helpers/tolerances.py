"""How far a computed value may be from the exact one, derived from the number format and the terms added.

One operation in a format with ``eps``, the distance from 1 to the next number, has a relative error of at most
u = eps / 2. A sum of n terms passes each of them through up to n operations. Their errors have no common direction, so
they add up like a random walk, to about sqrt(n) u and not n u; 8 sqrt(n) u is practically never exceeded (Higham & Mary
2019, theorem 2.4, with lambda = 8). So an error is bounded by

    rounding(dtype, terms) * magnitude

where magnitude is the sum of the terms' absolute values: not that of the result, since terms may cancel. Each test
writes down its own magnitude, because it follows from the formula that is tested.

Thousands of equal terms, added one after the other, exceed this bound: their errors have a common direction. Code that
adds so many does it in parts, as NumPy along a contiguous axis, or in float64.
"""

import numpy as np

from npgpt.kernels.precision import get_matmul_precision, get_way


def rounds_to_bfloat16():
    """Whether large products of float32 matrices round their factors to bfloat16, 8 bits."""
    return get_matmul_precision() == "medium" and get_way() in ("pairs", "tiles")


def rounding(dtype, terms=1):
    """The relative error of a sum of ``terms`` products in ``dtype``; terms may be an array.

    The 8 added to the terms stands for the few operations besides the sum: an exponential, a division, a root,
    constants rounded to the format.
    """
    return 8 * np.sqrt(8 + np.asarray(terms)) * np.finfo(dtype).eps / 2


def smallest(dtype):
    """The error allowed below the smallest normal number, where a format has no relative precision."""
    return 8 * float(np.finfo(dtype).tiny)


# Against torch. float64 is held to fixed relative distances: the largest difference against a result's largest element,
# or 1. Rounding is some 1e-16 sqrt(n) there, so 1e-12 leaves room for sums of 10^6 terms and none for a wrong
# digit in a constant; a gradient goes through two such sums and through cancellation.
FLOAT64_VALUE = 1e-12
FLOAT64_GRADIENT = 1e-10

# float32 is held to torch's own float32: at most twice as far from torch's float64. Torch may be exact by luck, mostly
# in small results, so 1e-6, some 16 u, of the largest element is always allowed.
FLOAT32_TIMES_TORCH = 2
FLOAT32_EXTRA = 1e-6


# Central differences, (f(x + h) - f(x - h)) / 2h, in float64: rounding contributes eps / h and the series that is cut
# off h^2, which are equal at h = eps^(1/3), where the error is some eps^(2/3) = 4e-11 times f's values and third
# derivative. The functions that are tested in this way have values and derivatives below some hundreds.
CENTRAL_DIFFERENCE_STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
CENTRAL_DIFFERENCE = 1e-8
