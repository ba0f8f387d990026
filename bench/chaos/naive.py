"""The negative control: the service without what keeps two trainings of a job apart. A harness that passes it is blind.

No lock of the slot, no guardian, no timer in the trainer, and writes that no fence turns away.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self


class Unguarded:
    """A plain child process with the face of `app.processes.guardian.Guarded`."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.pid = child.pid

    def poll(self) -> int | None:
        return self._child.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._child.wait(timeout)

    def stop(self) -> None:
        self._child.terminate()

    def kill(self) -> None:
        self._child.kill()

    def abandon(self) -> None:
        self._child.kill()

    def checkpoint(self) -> None:
        """A child that was not started with SIGUSR1 ignored would die of it."""

    def renew(self, began: float | None = None) -> None:
        """There is no lease."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: Path, pass_fds: Sequence[int] = (), **_: Any
) -> Unguarded:
    with output.open("ab") as log:
        child = subprocess.Popen(argv, env=env, cwd=cwd, stdout=log, stderr=log, pass_fds=pass_fds)
    return Unguarded(child)


def _without_guardian(module: ModuleType) -> None:
    module.spawn = spawn  # type: ignore[attr-defined]


def _without_fences(module: ModuleType) -> None:
    module.Claim.guards = property(lambda self: (module.Job.status == self.stage.active,))


def _without_locks(module: ModuleType) -> None:
    module.Slot.try_lock = _take_anything
    module.is_free = lambda *_: None  # type: ignore[attr-defined]


def _take_anything(slot: Any) -> bool:
    if not slot.is_held:
        slot._lock = os.open(os.devnull, os.O_RDWR)
    return True


def patches() -> dict[str, Callable[[ModuleType], None]]:
    return {
        "app.supervisor": _without_guardian,  # a worker's own would end what the worker leaves behind
        "worker.supervising.attempt": _without_guardian,
        "app.jobs.queue.claims": _without_fences,
        "worker.supervising.slots": _without_locks,
    }
