import numpy as np
import pytest

from npgpt.kernels.blocked_product import BLOCK_K, BLOCK_N, add_product_in_blocks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adds_to_what_is_there(dtype):
    """Whole numbers, so that the result is exact; sizes around a block's, and not multiples of four."""
    rng = np.random.default_rng(0)
    blocks = [(5, BLOCK_K, BLOCK_N), (3, BLOCK_K + 1, BLOCK_N + 1), (2, 2 * BLOCK_K + 7, 2 * BLOCK_N + 2)]
    for M, K, N in [(1, 1, 1), (2, 3, 4), *blocks]:
        a, b, c = (rng.integers(-9, 10, shape) for shape in ((M, K), (K, N), (M, N)))
        C = c.astype(dtype)
        add_product_in_blocks(a.astype(dtype), b.astype(dtype), C)
        np.testing.assert_array_equal(C, c + a @ b)
