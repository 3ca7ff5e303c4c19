"""Values for the cases: the same ones every time, away from zero and from each other."""

import numpy as np


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """An array of 0.5 to 2, of either sign. A wrong sign, factor or place then always shows.

    >>> values(2, 2).round(2).tolist()
    [[-0.58, -0.61], [-0.76, 1.41]]
    """
    rng = np.random.default_rng([seed, *shape])
    return rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)
