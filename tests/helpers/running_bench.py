"""Make bench/, which is not installed, importable; and run its commands as a user does."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


def bench(module, *arguments):
    command = [sys.executable, "-m", f"bench.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
