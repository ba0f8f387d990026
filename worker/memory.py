"""Whether the kernel killed for want of memory: the counter of the control group that this process is in."""

from contextlib import suppress
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def oom_kills(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int | None:
    """How many processes of this group the kernel has killed so far; None where nothing counts them.

    A child is in its parent's group unless somebody moved it, so a count that rose while a child ended by SIGKILL says
    who sent it. Files: `memory.events` of cgroup v2, `memory.oom_control` of v1 (in the kernel's documentation:
    admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst).
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                candidates = [mount / group.lstrip("/") / "memory.events"]
            elif "memory" in controllers.split(","):
                # In a container the path is often the host's, and the mount is the container's own group.
                root = mount / "memory"
                candidates = [root / group.lstrip("/") / "memory.oom_control", root / "memory.oom_control"]
            else:
                continue
            for counts in candidates:
                if (count := _count(counts)) is not None:
                    return count
    return None


def _count(counts: Path) -> int | None:
    with suppress(OSError):
        for line in counts.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
