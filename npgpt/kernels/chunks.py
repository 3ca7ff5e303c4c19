"""Long arrays are cut into chunks, which threads take one after the other."""

from npgpt.kernels.jit import jit

CHUNK_SIZE = 4096  # elements; 16 KB of each array: they stay in the first-level cache from one use to the next


@jit
def n_chunks(n):
    """The number of chunks in n elements; the last may be shorter."""
    return (n + CHUNK_SIZE - 1) // CHUNK_SIZE


@jit
def chunk_view(x, chunk):
    """This chunk of x (N,), a view."""
    return x[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
