"""Who holds a lock: one process of one machine, since its boot; and whether it still lives."""

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

ours: set[str] = set()  # tokens of the locks that this process holds


def myself() -> dict[str, Any]:
    pid = os.getpid()
    host, boot, processes = _machine()
    return {
        "host": host,
        "boot": boot,
        "processes": processes,
        "pid": pid,
        "started": _started(pid),
    }


def is_alive(holder: dict[str, Any]) -> bool | None:
    """Return whether the holder lives, or None where only its heartbeat can tell."""
    host, boot, processes = _machine()
    if holder.get("host") != host or not isinstance(holder.get("pid"), int):
        return None
    if holder.get("boot") != boot:
        # This machine has started anew since, unless its name says nothing.
        return None if host == "localhost" or not boot else False
    if holder.get("processes") != processes:
        return None
    if holder["pid"] == os.getpid() and holder.get("token") not in ours:
        return False  # left by this process where the disk did not let it go
    started = _started(holder["pid"])
    if started is None and _is_hidden(holder["pid"]):
        return None
    return bool(started == holder.get("started", ""))


def _machine() -> tuple[str, str, str]:
    """Return the host's name, its current boot and the namespace in which pids are unique."""
    boot = processes = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        processes = os.readlink("/proc/self/ns/pid")
    return socket.gethostname(), boot, processes


def _started(pid: int) -> str | None:
    """Return a mark of when process `pid` started, None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        words = ["ps", "-o", "lstart=,state=", "-p", str(pid)]  # macOS
        listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
        return listed[:-1].strip() if listed and not listed.endswith("Z") else None
    return None if fields[0] in "ZX" else fields[19]  # a zombie is dead; field 22: start time


def _is_hidden(pid: int) -> bool:
    """Say whether there is such a process, of another user, of which this one sees nothing else."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}/stat").exists()
    except (OSError, OverflowError):
        return False
    return False
