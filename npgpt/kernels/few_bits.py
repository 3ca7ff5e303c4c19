"""Frozen matrices kept in few bits, from which gradients still pass through: NF4 in 4.13 bits a weight, and bfloat16.

NF4, 4-bit NormalFloat: each 64 weights of a row share a scale, the largest of their absolute values, and a weight is

    W[k, n] = scale * NF4[code]             code 0 to 15, two of them in a byte, the first in its lower half

The 16 numbers NF4 are quantiles of a normal distribution, for that is how trained weights are distributed: each code is
then used about as often. They go from -1 to 1, and 0 is among them. There are 8 positive ones and 7 negative ones.

Double quantisation: the scales are themselves kept in 8 bits. 256 of them share a float32, the largest distance from
the mean of all scales:

    scale = mean + largest * DYNAMIC[code]  code 0 to 255

The 256 numbers DYNAMIC are of either sign. Those of the largest decimal exponent have 6 bits of fraction, and those of
each smaller one have a bit less: where numbers are few, they reach further down.

That makes 4 + 8 / 64 + 32 / (64 * 256) = 4.127 bits a weight.

Source: Dettmers et al. 2023 (QLoRA), section 3 and appendix E; for DYNAMIC Dettmers 2016, on dynamic tree quantisation.
A weight's code is chosen by the exact scale, as in the authors' bitsandbytes, and a row here begins a new block where
its length is no multiple of 64.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16

BLOCK = 64  # weights that share a scale
GROUP = 256  # scales that share a float32


def _normal_float() -> np.ndarray:
    """The quantiles of the probabilities that are spaced evenly from 1/2 to ``last``, for each sign, and scaled to 1.

    ``last`` is halfway between where the last of 16 and of 15 even parts has its middle: the largest weight must not be
    infinite.
    """
    last = 1 - (1 / 32 + 1 / 30) / 2
    positive, negative = (
        np.array([NormalDist().inv_cdf(p) for p in np.linspace(0.5, last, n + 1)[1:]]) for n in (8, 7)
    )
    numbers = np.concatenate([-negative[::-1], [0], positive])
    return (numbers / numbers.max()).astype(np.float32)


def _dynamic() -> np.ndarray:
    """Fractions from 0.1 to 1 in 2^e even parts, their middles times 10^(e - 6), for e = 0 to 6; with 0 and 1."""
    positive = [np.linspace(0.1, 1, 2**e + 1)[:-1] + 0.45 / 2**e for e in range(7)]
    positive = np.concatenate([10.0 ** (e - 6) * middles for e, middles in enumerate(positive)])
    return np.sort(np.concatenate([positive, -positive, [0, 1]])).astype(np.float32)


NF4, DYNAMIC = _normal_float(), _dynamic()
# For each byte the two numbers that it stands for.
PAIRS = np.stack([np.tile(NF4, 16), np.repeat(NF4, 16)], axis=1)


@dataclass(frozen=True)
class NF4Matrix:
    """W (K, N) in NF4.

    codes       (K, blocks * BLOCK / 2) uint8, rows filled up to whole blocks
    scales      (K, blocks) uint8, codes of DYNAMIC
    largest     (groups,) float32: of each GROUP scales, counted along the rows
    mean        of all scales
    """

    shape: tuple[int, int]
    codes: np.ndarray
    scales: np.ndarray
    largest: np.ndarray
    mean: float

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.largest.nbytes

    def rows(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """W[first:last] as float32."""
        codes = self.codes[first:last]
        n, blocks = len(codes), self.scales.shape[1]
        numbers = np.arange(first * blocks, (first + n) * blocks)
        # In float64, where this product is exact: so a fused multiply-add gives the same, to the bit.
        largest = self.largest[numbers // GROUP].astype(np.float64)
        scales = (self.mean + largest * DYNAMIC[self.scales[first:last].reshape(-1)]).astype(np.float32)
        W = PAIRS[codes].reshape(n * blocks, BLOCK) * scales[:, None]
        return W.reshape(n, blocks * BLOCK)[:, : self.shape[1]]


@dataclass(frozen=True)
class BF16Matrix:
    """W (K, N) in bfloat16.   codes (K, N) uint16, the bits"""

    shape: tuple[int, int]
    codes: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes

    def rows(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """W[first:last] as float32."""
        return bf16_to_f32(self.codes[first:last])


FewBits = NF4Matrix | BF16Matrix


def to_nf4(rows: Iterable[np.ndarray], shape: tuple[int, int]) -> NF4Matrix:
    """W (K, N) -> NF4; ``rows`` gives W's rows, some at a time, so that all of W need not be in memory.

    Raises ValueError if an element is not finite.

    >>> W = to_nf4([np.array([[0.5, -2.0, 0.1]], np.float32)], (1, 3))
    >>> W.rows().round(3)
    array([[ 0.492, -2.   ,  0.159]], dtype=float32)
    """
    K, N = shape
    blocks = -(-N // BLOCK)
    codes, scales = np.empty((K, blocks * BLOCK // 2), np.uint8), np.empty((K, blocks), np.float32)
    first = 0
    for part in rows:
        last = first + len(part)
        codes[first:last], scales[first:last] = _to_codes(part, blocks)
        first = last
    return NF4Matrix((K, N), codes, *_double_quantised(scales))


def _to_codes(W, blocks):
    """Rows of W -> codes (n, blocks * BLOCK / 2), scales (n, blocks) of float32"""
    if not np.isfinite(W).all():
        raise ValueError("NaN or infinity")
    padded = np.zeros((len(W), blocks * BLOCK), np.float32)
    padded[:, : W.shape[1]] = W
    padded = padded.reshape(len(W), blocks, BLOCK)
    scales = np.abs(padded).max(axis=2)
    padded /= np.where(scales == 0, np.float32(1), scales)[..., None]
    q = _nearest(NF4, padded)
    return (q[..., ::2] | q[..., 1::2] << 4).reshape(len(W), -1), scales


def _double_quantised(scales):
    """(K, blocks) of float32 -> the codes of DYNAMIC, the largest distance of each group, and the mean."""
    mean = float(scales.mean(dtype=np.float64).astype(np.float32)) if scales.size else 0.0
    distance = np.zeros(-(-scales.size // GROUP) * GROUP, np.float32)
    distance[: scales.size] = scales.reshape(-1) - np.float32(mean)
    groups = distance.reshape(-1, GROUP)
    largest = np.abs(groups).max(axis=1)
    codes = _nearest(DYNAMIC, groups / np.where(largest == 0, np.float32(1), largest)[:, None])
    return codes.reshape(-1)[: scales.size].reshape(scales.shape), largest, mean


def _nearest(numbers, x):
    """The index of the number nearest to each x; of two that are as near, the lower one."""
    return np.searchsorted((numbers[1:] + numbers[:-1]) / 2, x).astype(np.uint8)


def to_bf16(rows: Iterable[np.ndarray], shape: tuple[int, int]) -> BF16Matrix:
    """W (K, N) -> bfloat16; ``rows`` as for ``to_nf4``. Raises ValueError if an element is not finite."""
    codes, first = np.empty(shape, np.uint16), 0
    for part in rows:
        if not np.isfinite(part).all():
            raise ValueError("NaN or infinity")
        codes[first : first + len(part)] = f32_to_bf16(part)
        first += len(part)
    return BF16Matrix(shape, codes)
