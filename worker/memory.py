"""Reads from cgroups how much memory the host has, and how often the kernel killed a process because it ran out."""

import os
from contextlib import suppress
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def oom_kills(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int | None:
    """How many processes of this control group the kernel has killed so far for lack of memory.

    Returns None if the host has no such counter. A child is normally in its parent's group: if the count rose while a
    child was ended by SIGKILL, the kernel killed it. Files: `memory.events` of cgroup v2, `memory.oom_control` of v1
    (kernel documentation: admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst).
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                candidates = [mount / group.lstrip("/") / "memory.events"]
            elif "memory" in controllers.split(","):
                # In a container the path is often the host's, while the mount shows only the container's own group.
                root = mount / "memory"
                candidates = [root / group.lstrip("/") / "memory.oom_control", root / "memory.oom_control"]
            else:
                continue
            for counts in candidates:
                if (count := _count(counts)) is not None:
                    return count
    return None


def host_bytes(mount: Path = MOUNT) -> int:
    """The bytes of memory that all processes of this host, or of this container, can use together."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # the file does not exist, or says "max"
            limits.append(int((mount / name).read_text()))
    return min(limits)


def _count(counts: Path) -> int | None:
    with suppress(OSError):
        for line in counts.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
