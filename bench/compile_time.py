"""python -m bench.compile_time ARGUMENTS : run npgpt.train, and print the seconds it waited for compiled kernels."""

import json
import runpy
import sys

from npgpt.kernels import progress

if __name__ == "__main__":
    code = 0
    try:
        runpy.run_module("npgpt.train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    print(json.dumps({"compile_seconds": progress.seconds}))
    sys.exit(code)
