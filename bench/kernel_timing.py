"""The loop that times kernels: the same one for every side, run in that side's own process."""

import json
import sys
from time import perf_counter

import numpy as np

from bench.kernel_cases import cases

AT_LEAST = 3  # calls that are timed
SAMPLE = 500  # elements of each result that are compared


def time_kernels(call) -> None:
    """Reads the job from the command line and prints, for each case, seconds of each call and some of the results.

    ``call(name, case)`` gives a function of the case's arguments, or None where this side has nothing to compare. The
    function is called once before it is timed, which compiles. The arrays that it returns are compared between sides.
    """
    job = json.loads(sys.argv[1])
    report = {}
    for name, case in cases(**job["sizes"]).items():
        if name not in job["names"]:
            continue
        arguments = case.make(np.random.default_rng(0))
        function = call(name, case)
        if function is None:
            continue
        samples = [_sample(np.asarray(x)) for x in function(*arguments)]
        report[name] = {"results": samples, "seconds": _times(function, arguments, job["seconds"])}
    print(json.dumps(report))


def _times(function, arguments, enough):
    times = []
    while len(times) < AT_LEAST or sum(times) < enough:
        began = perf_counter()
        function(*arguments)
        times.append(perf_counter() - began)
    return times


def _sample(x):
    places = np.random.default_rng(1).integers(x.size, size=SAMPLE)
    return {"shape": list(x.shape), "largest": float(np.abs(x).max()), "elements": x.ravel()[places].tolist()}
