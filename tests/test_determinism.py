"""The same seed gives the same bits: again, in another process, with any number of threads.

That a stopped run goes on bit for bit is in test_resume.py, that compiling changes nothing in kernels/test_compiler.py.
"""

import hashlib
import json

import pytest
from conftest import ROOT
from helpers.commands import everything, process

EVERY_KERNEL = """
import hashlib, json, sys
sys.path.insert(0, "tests")
import numba, numpy as np
from kernels.test_table import CASES
from npgpt.kernels import KERNELS, jit
from helpers.versions import large_arguments, run
jit.MIN_PARALLEL_SIZE = 0  # threads however little there is to do
digests = {}
for name, case in CASES.items():
    for dtype in ("float32", "float64"):
        for version in KERNELS[name].keys() - {"numpy"}:
            for threads in (1, 2, 4):
                numba.set_num_threads(threads)
                results = run(KERNELS[name][version], case, large_arguments(case, np.dtype(dtype)))
                digest = hashlib.sha256(b"".join(x.tobytes() for x in results)).hexdigest()
                digests.setdefault(f"{name} {version} {dtype}", []).append(digest)
print(json.dumps(digests))
"""


def test_every_kernel_with_1_2_and_4_threads(python):
    done = python(EVERY_KERNEL, NUMBA_NUM_THREADS="4")
    assert done.returncode == 0, done.stderr
    digests = json.loads(done.stdout)
    assert len(digests) > 30
    assert {name for name, (one, two, four) in digests.items() if not one == two == four} == set()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{threads: a digest of all that a run has written}, of runs large enough for threads; "again" is 2 threads too."""
    digests = {}
    for name, threads in ((1, 1), (2, 2), ("again", 2), (4, 4)):
        folder = tmp_path_factory.mktemp(f"threads-{name}")
        typed = ("--preset", "nano", "--batch-size", 8, "--dropout", 0.1, "--max-steps", 8, "--eval-batches", 2)
        ended = process("train", ROOT / "data" / "the-verdict.txt", *typed, "--threads", threads, cwd=folder)
        assert ended.code == 0, ended
        written = everything(folder / "runs" / "the-verdict")
        digests[name] = {part: hashlib.sha256(repr(of).encode()).hexdigest() for part, of in written.items()}
    return digests


def test_a_run_again(runs):
    assert runs["again"] == runs[2]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_run_with_another_number_of_threads(runs, threads):
    assert runs[threads] == runs[2]
