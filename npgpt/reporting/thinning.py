"""Fewer points for a chart that looks the same."""

import numpy as np


def thinned(y: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most ``most`` points of y (N,), in order: all that can be seen of a line that is drawn through y.

    The first and the last one are among them, and of each of ``most / 2 - 1`` equal stretches its lowest and highest.
    So every peak stays, however short. NaN are left out. most is at least 4.

    >>> y = np.zeros(1000)
    >>> y[[500, 700]] = -1, 5
    >>> kept = thinned(y, 10)
    >>> len(kept) <= 10, kept[0], kept[-1], {500, 700} < set(kept.tolist())
    (True, np.int64(0), np.int64(999), True)
    """
    known = np.flatnonzero(~np.isnan(y))
    if len(known) <= most:
        return known
    stretches = np.array_split(known, most // 2 - 1)
    kept = [known[[0, -1]]]
    kept += [part[[np.argmin(y[part]), np.argmax(y[part])]] for part in stretches]
    return np.unique(np.concatenate(kept))


def smoothed(y: np.ndarray, part: float = 0.04) -> np.ndarray:
    """y (N,) -> (N,): at each place the mean of y around it, over ``part`` of all places; fewer at the ends.

    >>> smoothed(np.array([0.0, 3.0, 0.0, 3.0, 0.0, 3.0]), part=0.5)
    array([1.5, 1. , 2. , 1. , 2. , 1.5])
    """
    half = int(len(y) * part / 2)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    ends = np.minimum(np.arange(len(y)) + half + 1, len(y))
    starts = np.maximum(np.arange(len(y)) - half, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
