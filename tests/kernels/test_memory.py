import platform

import numpy as np
import pytest

from npgpt.kernels.machine import memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
def test_freed_memory_is_kept(python):
    """A large array that comes again takes no new pages; without asking for that it takes all of them again."""
    code = """
import resource
import numpy as np
from npgpt.kernels.machine.memory import keep_freed_memory
ASK
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(10**8, np.uint8)[::4096] = 1
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages)
"""
    kept, given_back = (int(python(code.replace("ASK", ask)).stdout) for ask in ("keep_freed_memory()", ""))
    assert kept < 10 < given_back


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 50_257)])
def test_an_array_begins_with_a_cache_line(shape):
    arrays = [memory.empty(shape, dtype) for dtype in (np.float32, np.float64, np.uint8) for _ in range(5)]
    for x in arrays:
        assert (x.shape, x.flags.c_contiguous, x.flags.writeable) == (shape, True, True)
        assert x.ctypes.data % 64 == 0 or not x.size
        x[...] = 1
