"""Means over examples, and their standard errors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A value that was measured on a sample, and its standard error; None if one example is all there is.

    The sample stands for more text of the same kind. About two thirds of such samples have a value within one standard
    error of what all of that text would give, and 95 % within two.
    """

    value: float
    error: float | None

    def times(self, factor: float) -> "Estimate":
        """In another unit."""
        return Estimate(self.value * factor, None if self.error is None else self.error * factor)

    def exp(self) -> "Estimate":
        """exp(value) with the error to first order, exp(value) * error: what a perplexity is to a mean loss."""
        with np.errstate(over="ignore"):
            y = float(np.exp(self.value))
        return Estimate(y, None if self.error is None else y * self.error)


def mean(sums: ArrayLike, counts: ArrayLike = 1) -> Estimate:
    """The mean over all observations, which come in W groups. sums, counts (W,): each group's sum, and its size.

        m = sum_g sums_g / sum_g counts_g
        error = sqrt(W / (W - 1) sum_g (sums_g - m counts_g)^2) / sum_g counts_g

    Observations of one group may depend on each other, as neighbouring tokens do, and only groups are taken for
    independent: a clustered standard error (Miller 2024, "Adding Error Bars to Evals", with the factor W / (W - 1)).
    For groups of one it is s / sqrt(W), with s the standard deviation over W - 1: lm-evaluation-harness's error of an
    accuracy.

    >>> mean([1, 0, 1, 1])
    Estimate(value=0.75, error=0.25)
    """
    sums = np.asarray(sums, np.float64)
    counts = np.broadcast_to(np.asarray(counts, np.float64), sums.shape)
    W, total = len(sums), counts.sum()
    m = sums.sum() / total
    error = None if W < 2 else float(np.sqrt(W / (W - 1) * np.sum((sums - m * counts) ** 2)) / total)
    return Estimate(float(m), error)
