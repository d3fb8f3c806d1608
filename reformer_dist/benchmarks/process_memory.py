"""How much memory a process of Linux takes, by /proc: a child's ru_maxrss, for one, would start at its parent's peak."""

import ctypes
from pathlib import Path

MIB = 2**20


def restart_peak() -> float:
    """Give freed memory back, let the peak of this process start anew, and return its size in MiB."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_mib("VmRSS")


def status_mib(name: str) -> float:
    """A size of this process: VmRSS now, or VmHWM, the largest since `restart_peak`."""
    return mib_in(Path("/proc/self/status").read_text(encoding="ascii"), name)


def mib_in(status: str, name: str) -> float:
    """A size in the text of a process's status file; 0 where it has none, as the kernel's own processes."""
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(f"{name}:")), 0.0)
