"""Memory of the machine and of a process, and its limit; Linux only, elsewhere there is no limit."""

from __future__ import annotations

import os
from pathlib import Path

_SHARE = 0.95
"""Share of the memory of the machine that a process gets, so that the system need not kill any."""

_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Limits of a container, of cgroup versions 2 and 1."""


def is_limitable() -> bool:
    """Return whether this system can limit and measure the memory of a process."""
    return Path("/proc/self/statm").is_file()


def machine_share() -> int | None:
    """Return 95 % of the memory of the machine or its container in bytes; None where it is unknown."""
    if not is_limitable():
        return None
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in map(Path, _CONTAINER):
        # "max" stands for no limit
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            sizes.append(int(text))
    return int(_SHARE * min(sizes))


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def limit_allocations(size: int) -> None:
    """Let allocations fail beyond ``size`` bytes, with an exception instead of the end of the process.

    RLIMIT_DATA counts private memory only, not mapped libraries.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
