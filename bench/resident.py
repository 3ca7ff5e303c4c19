"""How much memory this process has, from Linux's /proc."""

from pathlib import Path


def resident() -> int:
    """Bytes in memory now."""
    return _field("VmRSS")


def most_resident() -> int:
    """Bytes in memory at most, since the process began."""
    return _field("VmHWM")


def _field(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")
