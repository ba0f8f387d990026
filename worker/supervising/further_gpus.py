"""The GPUs that a worker may use beside its own, for trainings on several GPUs. It takes all that a job needs, or none.

A worker always holds the slot of its own GPU, the first one that it sees. Before it claims a job it locks the slots of
all other GPUs that it sees and that are free, which tells how many GPUs the job may need. Then it releases those that
the job does not need. No lock is ever waited for, so two workers cannot wait for each other.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.processes.lock import CannotStart
from worker.supervising.slots import Slot

log = logging.getLogger(__name__)


@dataclass
class FurtherGpus:
    """`own`, `names`: of the worker's own GPU and of the others, as in CUDA_VISIBLE_DEVICES. `slots`: of the others."""

    own: str = ""
    names: Sequence[str] = ()
    slots: Sequence[Slot] = ()
    _held: list[int] = field(default_factory=list, init=False)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock those that are free. At the end all are released."""
        self._held = [number for number, slot in enumerate(self.slots) if _is_locked(slot)]
        try:
            yield
        finally:
            self.keep(0)

    def keep(self, count: int) -> None:
        """Release all locked ones but so many."""
        for number in self._held[count:]:
            self.slots[number].release()
        del self._held[count:]

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def descriptors(self) -> list[int]:
        """Those of the locks, for child processes to inherit."""
        return [self.slots[number].fd for number in self._held]

    @property
    def devices(self) -> tuple[str, ...]:
        """The worker's own GPU and those that are locked. Empty if there is only the own one."""
        return (self.own, *(self.names[number] for number in self._held)) if self._held else ()


def _is_locked(slot: Slot) -> bool:
    try:
        return slot.try_lock()
    except CannotStart as error:
        log.warning("%s", error)
        return False
