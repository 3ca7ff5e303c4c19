"""Shared by all tests: how many cases Hypothesis draws, the slow tests, and a fresh Python to run things in.

pytest                              the default: 200 cases for each property, the same ones every time
pytest -n 2                         the same by two processes
HYPOTHESIS_PROFILE=thorough pytest  1,000 cases for each property
pytest --slow                       also the tests that take minutes
"""

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.browser import started
from hypothesis import settings

# Numba and torch each have a pool of threads. Threads that wait must not keep a core busy. This is read when the pools
# are made.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# With it Python's streams buffer nothing, and what goes wrong with buffered ones, as users have them, can't be seen.
os.environ.pop("PYTHONUNBUFFERED", None)

# A script that starts the tests in the background makes them ignore Ctrl-C, and with them the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
TEST_LIMIT = 900  # seconds; kernels that compile beside other work are the longest
STDERR = pytest.StashKey[int]()
TEXT = "The jury sat four days over a drowned pig, and nobody ate. " * 8

# No test asks the Hugging Face hub, or reads the user's cache of it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = str(ROOT / "tests" / "no-such-cache")

# What runs note of the machine is not left in the user's cache folder.
_cache = tempfile.TemporaryDirectory(prefix="npgpt-cache-")
os.environ["XDG_CACHE_HOME"] = _cache.name

settings.register_profile("default", derandomize=True, deadline=None, max_examples=200)
settings.register_profile("few", derandomize=True, deadline=None, max_examples=50)  # test_tiles_plain.py
settings.register_profile("thorough", derandomize=True, deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config):
    config.stash[STDERR] = os.dup(2)  # before pytest captures what a test writes


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, which take minutes, too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that waits for ever ends its process with a traceback. Under -n it fails, and others go on."""
    if "slow" in item.keywords:
        return (yield)
    faulthandler.dump_traceback_later(TEST_LIMIT, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def matmul_precision():
    """A run sets the precision of products for its process. The next test has the one that this test began with."""
    precision = sys.modules.get("npgpt.kernels.precision")
    before = precision.get_matmul_precision() if precision else "highest"
    yield
    precision = sys.modules.get("npgpt.kernels.precision")
    if precision and precision.get_matmul_precision() != before:
        precision.set_matmul_precision(before)


@pytest.fixture(scope="session")
def python():
    """python(code, NAME="value" ...) runs code in a fresh interpreter with these environment variables.

    -> subprocess.CompletedProcess with text in stdout and stderr. A variable that is None is removed.
    """

    def run(code, **environment):
        environment = {**os.environ, **environment}
        return subprocess.run(
            [sys.executable, "-c", code],
            env={name: value for name, value in environment.items() if value is not None},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium (helpers.browser.Browser). Its tests are skipped where there is none."""
    with started() as browser:
        yield browser


@pytest.fixture
def folder(tmp_path):
    """A working folder with text.txt."""
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path
