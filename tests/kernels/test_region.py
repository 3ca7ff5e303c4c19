"""kernels/machine/region.py: the rows that are fetched are the memory that is packed."""

import numpy as np
import pytest

from npgpt.kernels.machine.region import region, without_first_row


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("line_step", [1, 70])
def test_a_region_is_the_memory_of_its_lines(dtype, line_step):
    """6 lines from line 3 on, 11 steps of each from step 5 on."""
    x = np.zeros((50, 70), dtype)
    lines = x if line_step == 70 else x.T
    part = lines[3:9, 5:16]
    offsets = part.strides[0] * np.arange(6)[:, None] + part.strides[1] * np.arange(11)
    right = {part.ctypes.data + offset + byte for offset in offsets.flat for byte in range(x.itemsize)}
    r, found = region(part.ctypes.data, line_step, 71 - line_step, 6, 11, dtype(0)), set()
    while r.rows:
        found |= set(range(r.address, r.address + r.length))
        r = without_first_row(r)
    assert found == right


def test_no_steps_are_nothing():
    assert region(64, 70, 1, 6, 0, np.float32(0)).rows == region(64, 1, 70, 6, 0, np.float32(0)).rows == 0
