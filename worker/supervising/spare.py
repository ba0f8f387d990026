"""Keeps a warm spare: one trainer process that has its imports and waits for an order, while no training runs.

    worker ──order──> spare      a socket that only these two hold; it closes when the worker dies
       └──> guardian ──┘         as of any child: it holds the slot, and ends the spare when the worker dies

A spare is used for one training, and the next one is started when that has ended. It is given its order as soon as
there is one, even if it still imports. If it cannot do the training, a cold process does it.
"""

import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from app.config import Settings
from app.contracts.devices import CPU
from app.contracts.spare import SpareAnswer, SpareOrder, SpareReady
from app.jobs.views.logs import LOG_NAME
from app.processes.environments import Process
from app.processes.guardian import Guarded, Lease, spawn
from app.processes.restart_delay import RESTARTS_A_MINUTE, restart_delay
from worker.child import SPARE, TRAINER, environment
from worker.confinement.allowed import is_confined
from worker.confinement.process import temporary_folder
from worker.memory import host_bytes
from worker.supervising.slots import Slot

LONGEST_MESSAGE = 65_536
# A spare has 0.6 GB of its own. Without a GPU, engine, trainer and the user's programs need the host's memory more.
LEAST_HOST_BYTES = 12 * 2**30
SAID: TypeAdapter[SpareReady | SpareAnswer] = TypeAdapter(SpareReady | SpareAnswer)
# If memory runs out, the kernel kills the training, which can resume, rather than the worker, the API or the database.
OOM_SCORE = 500
log = logging.getLogger(__name__)


def lease_of(settings: Settings) -> Lease:
    return Lease(settings.term_after_seconds, settings.kill_after_seconds, settings.alarm_after_seconds)


def is_wanted(settings: Settings, device: str) -> bool:
    """Whether a worker keeps a spare: as the operator says, or else if it has a GPU or the host has much memory.

    Another trainer than ours has other imports.
    """
    suits = not device.startswith(CPU) or host_bytes() >= LEAST_HOST_BYTES
    return (suits if settings.warm_spare is None else settings.warm_spare) and settings.trainer_module == TRAINER


class Spare:
    """One spare process. Leaving its `with` block kills it and removes its folder."""

    def __init__(self, settings: Settings, slot: Slot, env: Mapping[str, str]) -> None:
        self.env, self._lease = dict(env), lease_of(settings)
        self._answer: SpareAnswer | None = None
        self._stack = ExitStack()
        with self._stack as stack:
            self._folder = stack.enter_context(temporary_folder())
            self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(self._link)
            self._link.setblocking(False)
            with theirs:
                self.child = stack.enter_context(self._spawn(settings, slot, theirs.fileno()))
            self._stack = stack.pop_all()

    def _spawn(self, settings: Settings, slot: Slot, theirs: int) -> Guarded:
        return spawn(
            [sys.executable, "-m", SPARE, str(theirs)],
            env={**self.env, "TMPDIR": str(self._folder)},
            cwd=self._folder,
            output=self._folder / LOG_NAME,
            grace_seconds=settings.grace_seconds,
            pass_fds=[slot.fd, theirs],
            lease=self._lease,
            is_waiting=True,
            oom_score_adj=OOM_SCORE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None

    def give(self, order: Path) -> bool:
        """Begin the lease, and send the order to the process. Returns False if it has ended."""
        now = time.monotonic()
        latest = now + self._lease.alarm_after - self._lease.kill_after
        given = SpareOrder(order=order, output=order.with_name(LOG_NAME), latest=latest)
        self.child.renew(now)
        try:
            self._link.send(given.model_dump_json().encode())
        except OSError:
            return False
        return True

    def listen(self) -> SpareReady | None:
        """Read what the process has said. Returns what it holds if it has just finished its imports."""
        ready = None
        with suppress(OSError):
            while message := self._link.recv(LONGEST_MESSAGE):
                said = SAID.validate_json(message)
                if isinstance(said, SpareReady):
                    ready = said
                else:
                    self._answer = said
        return ready

    def refusal(self) -> str | None:
        """Why the process, which has ended, did not begin the training; None if it did."""
        self.listen()
        return self._answer.refusal if self._answer is not None else "it ended before it had its imports"

    def last_words(self) -> str:
        with suppress(OSError):
            return (self._folder / LOG_NAME).read_text(errors="replace")[-2000:].strip()
        return ""


class WarmSpare:
    """The spare of a worker, or none. Its methods may be called by several threads."""

    def __init__(self, settings: Settings, slot: Slot) -> None:
        self._settings, self._slot = settings, slot
        self._lock = threading.Lock()
        self._spare: Spare | None = None
        self._trainings = 0
        self._is_closed = False
        self._deaths: deque[float] = deque(maxlen=RESTARTS_A_MINUTE)

    def keep(self) -> None:
        """Start a spare if there is none and no training runs. Call this every few seconds."""
        with self._lock:
            if self._spare is not None:
                self._look_after(self._spare)
            if self._spare is None and not self._trainings and not self._is_closed and self._is_due():
                env = environment(Process.TRAIN, self._settings.root / "cache")
                self._spare = Spare(self._settings, self._slot, env)

    def _is_due(self) -> bool:
        """Whether enough time has passed since a spare ended by itself."""
        now = time.monotonic()
        return not self._deaths or now >= self._deaths[-1] + restart_delay(self._deaths, now)

    def _look_after(self, spare: Spare) -> None:
        if (ready := spare.listen()) is not None:
            self._deaths.clear()
            log.info(
                "a warm spare is ready after %.1f s; it holds %d MiB and %s; its threads: %s",
                ready.import_seconds,
                ready.memory_bytes // 2**20,
                "a context of the GPU" if ready.has_gpu_context else "nothing of a GPU",
                ", ".join(ready.threads),
            )
            if len(ready.threads) > 1 and is_confined(self._settings.confinement, loads_unsloth=True):
                log.warning("no warm spare is kept, because one with several threads cannot be confined")
                self._is_closed = True
                self._close()
                return
        if not spare.is_alive:
            log.warning("the warm spare has ended by itself: %s", spare.last_words())
            self._deaths.append(time.monotonic())
            self._close()

    @contextmanager
    def training(self, order: Path, env: Mapping[str, str]) -> Iterator[Spare | None]:
        """Yield the spare, which has been given this order, or None: then a cold process has to do it.

        Meanwhile no other spare is started. At the end the yielded one is killed, if it has not ended.
        """
        with self._lock:
            self._trainings += 1
            spare, self._spare = self._spare, None
        try:
            with spare or nullcontext():
                if spare is None or (spare.env == env and spare.give(order)):
                    yield spare
                    return
            log.info("the warm spare cannot be used: it has ended, or has another environment")
            yield None
        finally:
            with self._lock:
                self._trainings -= 1

    def close(self) -> None:
        """End the spare. No other one is started."""
        with self._lock:
            self._is_closed = True
            self._close()

    def _close(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            with spare:
                pass
