"""Which process writes a run, and whether it still lives."""

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Machine, boot, number and start of this process; no two processes ever have the same."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a process, named by `this_process`, was on this machine and is no more; of other machines nothing is known."""
    *machine, number, started = process.split(" ")
    if " ".join(machine) != _machine():
        return " ".join(machine[:1]) == socket.gethostname() and _boot() != "" and " ".join(machine) != _machine()
    return _started(int(number)) != started


def _machine() -> str:
    return f"{socket.gethostname()} {_boot()}"


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
