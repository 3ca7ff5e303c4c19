import platform

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
def test_freed_memory_is_kept(python):
    """A large array that comes again takes no new pages; without asking for that it takes all of them again."""
    code = """
import resource
import numpy as np
from npgpt.kernels.machine.malloc import keep_freed_memory
ASK
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(10**8, np.uint8)[::4096] = 1
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages)
"""
    kept, given_back = (int(python(code.replace("ASK", ask)).stdout) for ask in ("keep_freed_memory()", ""))
    assert kept < 10 < given_back
