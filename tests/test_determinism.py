"""The same seed gives the same bits: again, in another process, with any number of threads.

That a stopped run resumes bit for bit is in test_resume.py, that compiling changes nothing in kernels/test_ahead.py,
and that of each kernel by itself in kernels/test_table.py.
"""

import hashlib

import pytest
from conftest import ROOT
from helpers.commands import everything, process


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
