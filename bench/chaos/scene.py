"""What a fault is given: the stack, the users, chance."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from threading import Event, Lock

from bench.chaos.customers import Customers
from bench.chaos.injected import Injected
from bench.chaos.processes import Process
from bench.chaos.stack import Stack

TRAINER_SECONDS = 8.0


@dataclass
class Scene:
    """`over` is set when no more faults are to come: one that goes on for a while ends itself then."""

    stack: Stack
    customers: Customers
    rng: Random
    points_with: str = ""
    over: Event = field(default_factory=Event)
    injected: list[Injected] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def one_of(self, *roles: str) -> Process | None:
        found = sorted(self.stack.processes(*roles), key=lambda process: process.pid)
        return self.rng.choice(found) if found else None

    def trainer(self) -> Process | None:
        """A trainer that steps, or one that still loads; None when none comes in time."""
        deadline = time.monotonic() + TRAINER_SECONDS
        while (found := self.one_of("trainer")) is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if found is not None:
            time.sleep(self.rng.uniform(0, 2))  # not always while it loads
        return found if found is not None and found.is_alive else None

    def worker_of(self, trainer: Process) -> Process | None:
        """The worker that the trainer hangs from, by its guardian where it has one."""
        workers = {one.pid: one for one in self.stack.processes("worker")}
        pid: int | None = trainer.pid
        while pid and pid not in workers:
            pid = _parent(pid)
        return workers.get(pid) if pid else None

    def guardian_of(self, trainer: Process) -> Process | None:
        parent = _parent(trainer.pid)
        return next((one for one in self.stack.processes("guardian of trainer") if one.pid == parent), None)

    def hold(self, seconds: float) -> None:
        """How long a state lasts that a fault has made."""
        time.sleep(seconds)

    def wait_until(self, probe: Callable[[], object], seconds: float) -> float | None:
        """The moment when it came true, or None."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if probe():
                return time.monotonic()
            time.sleep(0.1)
        return None

    def tell(self, injected: Injected) -> None:
        with self.lock:
            self.injected.append(injected)


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None
