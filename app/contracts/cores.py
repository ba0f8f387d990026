"""How compute processes share the cores of a host: the number of cores, and what OpenMP's threads do while they wait.

By default waiting threads of OpenMP spin. They take the cores from the other process (engine, trainer or checker) that
would compute on them, and both become several times slower.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

# The variables of the standard, GNU's and LLVM's library that set how threads of OpenMP wait.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
THREADS = "OMP_NUM_THREADS"
CGROUP = Path("/sys/fs/cgroup")


def count_cores(group: Path = CGROUP) -> int:
    """Return how many cores this process may use, by its affinity and the quota of its container."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(group)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(group: Path) -> float | None:
    """Return the quota of cgroup v2 or v1 in cores, or None if there is none."""
    try:
        most, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            most, period = ((group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        quota = int(most) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return quota if quota > 0 else None


def sharing_cores(environment: Mapping[str, str], group: Path = CGROUP) -> dict[str, str]:
    """Return variables for a process that shares the cores, to be set before it loads torch.

    Variables that the operator has set in `environment` are not changed.
    """
    chosen = {}
    if not any(name in environment for name in WAITING):
        chosen["OMP_WAIT_POLICY"] = "PASSIVE"
    cores = count_cores(group)
    if THREADS not in environment and cores < len(os.sched_getaffinity(0)):  # OpenMP only knows the affinity
        chosen[THREADS] = str(cores)
    return chosen
