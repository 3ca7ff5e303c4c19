"""The machine, its software and the command: what a run needs to be repeated."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from npgpt.shell import joined


def describe_machine() -> dict[str, str]:
    """Names and values, to be read by people: processor, cores, memory, system, versions."""
    described = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
        "memory": _memory(),
        "system": platform.platform(),
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("npgpt", "numpy", "numba")},
    }
    return {name: value for name, value in described.items() if value}


def typed_command(processes: int = 1) -> str:
    """This process's command as it can be typed again: python -m npgpt.train data/the-verdict.txt"""
    launcher = ["mpiexec", "-n", str(processes)] if processes > 1 else []
    return joined([*launcher, "python", "-m", "npgpt.train", *sys.argv[1:]])


def _processor():
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory():
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return ""
    return f"{size / 1e9:.1f} GB"


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
