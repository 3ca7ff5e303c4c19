"""The machine and the software that a figure belongs to. ``python -m bench.machine`` prints it."""

import json
import os
import platform
import re
import subprocess
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The instructions that decide how fast a matrix product can be, as Linux names them.
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16")
# Environment variables with these prefixes change what is measured, so they are recorded.
PREFIXES = "NPGPT_ NUMBA_ OPENBLAS_ OMP_ KMP_ GOMP_ MKL_ DNNL_ ONEDNN_ MALLOC_ LD_PRELOAD"

PACKAGES = ("numpy", "numba", "llvmlite", "torch", "transformers", "llama_cpp_python")


def describe() -> dict:
    """Describe this machine and its software, for the JSON files."""
    cpuinfo = _read("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", _field(cpuinfo, "flags") or _field(cpuinfo, "Features") or ""))
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": _cpu_name(cpuinfo),
        "cpu_features": [name for name in FEATURES if name in flags],
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "blas": _blas(),
        "commit": _commit(),
        "environment": {
            name: os.environ[name] for name in sorted(os.environ) if name.startswith(tuple(PREFIXES.split()))
        },
    }


def summary(machine: dict) -> str:
    """One line for the head of a table."""
    software = ", ".join(f"{name} {machine[name]}" for name in ("python", "numpy", "numba", "torch") if machine[name])
    return (
        f"{machine['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB, "
        f"{software}, BLAS {machine['blas']}, commit {machine['commit']}"
    )


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name(cpuinfo):
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return _field(cpuinfo, "model name") or platform.processor() or platform.machine()


def _field(cpuinfo, name):
    found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found and found[1]


def _blas():
    import numpy

    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas.get('name')} {blas.get('version')}"


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit():
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "npgpt", "bench")
    return f"{commit} with changes" if commit and changed else commit or "unknown"


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()  # --help alone
    machine = describe()
    print(summary(machine))
    print(json.dumps(machine, indent=2))
