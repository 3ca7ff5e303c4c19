"""The work of both sides of bench.load in their processes: load a model, compute logits, report time and memory."""

import json
from pathlib import Path
from time import perf_counter

TOKENS = [[464, 11241, 318, 257, 1332]]


def report(load, logits_of) -> None:
    """Print, as JSON, the seconds of ``logits_of(load())``, its peak of memory, and some of the logits.

    logits_of: a model -> logits (1, T, V) of TOKENS, a NumPy array
    """
    before, began = memory("VmRSS"), perf_counter()
    model = load()
    loaded = perf_counter()
    logits = logits_of(model)
    seconds = perf_counter() - began
    result = {"seconds": seconds, "loading": loaded - began, "memory": memory("VmHWM") - before}
    print(json.dumps({**result, "logits": logits[0, -1, :1000].tolist()}))


def memory(field: str) -> int:
    """Resident bytes of this process now (VmRSS) or at most (VmHWM), as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")
