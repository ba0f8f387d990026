"""When the work on an order began, from which the seconds of a training's start are counted."""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True)
class StartMoment:
    """When the work on an order began, by both clocks, and whether the process had its imports before."""

    at: datetime
    began: float
    is_warm: bool = False

    @classmethod
    def now(cls, *, is_warm: bool = False) -> "StartMoment":
        return cls(datetime.now(UTC), time.monotonic(), is_warm)

    @classmethod
    def of_this_process(cls) -> "StartMoment":
        """When the kernel started this process (`man 5 proc_pid_stat`: field 22, in ticks after boot)."""
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return cls(datetime.now(UTC) - timedelta(seconds=age), time.monotonic() - age)
