"""A part of a matrix that is packed next. It is fetched from memory while the part before it is multiplied.

Memory has nothing to do while panels are multiplied, and the arithmetic has nothing to do while the next ones are
packed. So each tile of C that is computed also fetches one row of the next part, a cache line at a time: many at once
would hold up the loads of the tile itself.
"""

from typing import NamedTuple

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.microkernel import element_size


class Region(NamedTuple):
    """Rows that are each contiguous in memory. When the first is fetched, ``without_first_row`` is what is left."""

    address: int
    distance: int  # in bytes, from one row to the next
    length: int  # of a row, in bytes
    rows: int  # 0: there is nothing to fetch


NOTHING = Region(0, 0, 0, 0)


@jit
def region(x, line_step, k_step, lines, K, dtype_tag):
    """Lines of a factor, as ``product.pack_all`` takes them, K steps of each. If K = 0, NOTHING."""
    size = element_size(dtype_tag)
    if k_step == 1:
        return Region(x, line_step * size, K * size, lines if K else 0)
    return Region(x, k_step * size, lines * size, K)


@jit
def without_first_row(r):
    """The other rows; NOTHING if there are none."""
    return Region(r.address + r.distance, r.distance, r.length, r.rows - 1) if r.rows > 1 else Region(0, 0, 0, 0)
