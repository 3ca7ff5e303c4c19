"""python -m bench.compile_time ARGUMENTS : npgpt.train in this process, and how long Numba spent compiling."""

import json
import runpy
import sys

from numba.core import event

if __name__ == "__main__":
    timer = event.TimingListener()  # counts what is compiled within a compilation once
    event.register("numba:compile", timer)
    code = 0
    try:
        runpy.run_module("npgpt.train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    print(json.dumps({"compile_seconds": timer.duration if timer.done else 0.0}))
    sys.exit(code)
