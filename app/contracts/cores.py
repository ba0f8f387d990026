"""How processes that compute share the cores of a host: how many there are, and what OpenMP does while it waits.

The engine, the trainer and the checker compute in parts for which all threads of a process wait. OpenMP's threads spin
while they wait, which takes the core from the process that would compute on it: both are several times slower then.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

# Any of them says how the threads of OpenMP wait, in the words of the standard, of GNU's library and of LLVM's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
THREADS = "OMP_NUM_THREADS"
CGROUP = Path("/sys/fs/cgroup")


def count_cores(group: Path = CGROUP) -> int:
    """The cores that this process may keep busy: by its affinity, and by the quota of its container."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(group)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(group: Path) -> float | None:
    """In cores, of cgroup v2 or v1; None where there is none."""
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
    """Variables for a process that computes beside others, to be set before it loads torch.

    What the operator has chosen, in the environment that is given, stays as it is.
    """
    chosen = {}
    if not any(name in environment for name in WAITING):
        chosen["OMP_WAIT_POLICY"] = "PASSIVE"
    cores = count_cores(group)
    if THREADS not in environment and cores < len(os.sched_getaffinity(0)):  # OpenMP knows of the affinity alone
        chosen[THREADS] = str(cores)
    return chosen
