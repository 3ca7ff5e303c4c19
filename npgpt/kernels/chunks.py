"""Long arrays are cut into chunks, which threads take one after the other."""

from npgpt.kernels.jit import jit

CHUNK = 4096  # numbers; 16 KB of each array: they stay in the first-level cache from one use to the next


@jit
def chunks(n):
    """How many chunks n numbers make; the last may be shorter."""
    return (n + CHUNK - 1) // CHUNK


@jit
def part(x, chunk):
    """This chunk of x (N,), a view."""
    return x[chunk * CHUNK : (chunk + 1) * CHUNK]
