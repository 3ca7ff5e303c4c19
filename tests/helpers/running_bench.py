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


def run_with(monkeypatch, module, sides, *arguments):
    """Give a command its arguments, the last one a folder for its x.json, and the reports of its processes."""
    monkeypatch.setattr(module, "prepare", lambda threads: 1)
    monkeypatch.setattr(module, "check_peer", lambda name: None)
    monkeypatch.setattr(module, "_measure", lambda *arguments: sides)
    monkeypatch.setattr(sys, "argv", ["", "--preset=nano", *arguments[:-1], f"--json={arguments[-1] / 'x.json'}"])


class Stopped(Exception):
    pass


def stop(*arguments, **named):
    raise Stopped(*arguments)
