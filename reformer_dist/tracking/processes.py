"""Which process writes a run, and whether it still lives."""

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Machine, boot, number and start of this process; no two processes ever have the same."""
    return f"{socket.gethostname()} {_boot()} {os.getpid()} {_started(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a process, named by `this_process`, was on this machine and is no more; of other machines nothing is known."""
    machine, boot, number, started = process.split(" ")
    if machine != socket.gethostname():
        return False
    return boot != _boot() or _started(int(number)) != started


def _boot() -> str:
    """What changes when the machine starts anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(number: int) -> str:
    """When a process began, in ticks since the machine did; nothing if there is none."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
