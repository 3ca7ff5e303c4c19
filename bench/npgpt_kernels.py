"""python -m bench.npgpt_kernels JOB numpy|numba : npgpt's sides of bench.kernels, and what the machine could do."""

import sys

from bench.kernel_timing import time_kernels
from npgpt.kernels import KERNELS


def call(name, case):
    kernel = KERNELS[case.kernel][sys.argv[2]]

    def function(*arguments):
        returned = kernel(*arguments)
        if case.written:
            written = [arguments[i] for i in case.written]
            return [x[0] if isinstance(x, list) else x for x in written]
        return returned if isinstance(returned, tuple) else (returned,)

    return function


if __name__ == "__main__":
    time_kernels(call)
