"""Repairs the effects of lost messages and dead processes: it notifies again of waiting jobs, takes jobs back from dead
workers, and removes files and rows that are no longer needed.

Several reconcilers may run, since every change is a compare-and-set. A worker on this host is dead if the lock of its
slot is free. Any worker is dead if its heartbeat count has not changed for the length of a lease, measured by this
process's monotonic clock. A database error discards all observations, so an outage never expires the leases of healthy
workers.
"""

import logging
import socket
import time
from datetime import timedelta

from app import __version__
from app.database.connection import AWAY, utc_now
from app.jobs.models import Job, Worker
from app.jobs.queue import claims, retention
from app.jobs.queue.attempts import faults
from app.processes.lock import CannotStart
from worker.supervising.context import WorkerContext
from worker.supervising.slots import SlotStuck, is_free, remove_orphans
from worker.supervising.verdict import pause_seconds

# A dead worker's guardian gives its child the grace to save a checkpoint, and needs a moment itself.
GUARDIAN_SECONDS = 1.0
SLOT_RETRY_SECONDS = 0.5
DEAD = "the worker that held the job died"
SILENT = "the worker that held the job fell silent"
log = logging.getLogger(__name__)


class Reconciler:
    """The background thread of a worker process. It also updates the worker's own row."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._started = utc_now()
        self._observed: dict[tuple[str, int], tuple[int, float]] = {}
        self._problem: str | None = None

    def run(self) -> None:
        while not self._context.stopping.is_set():
            self.round()
            seconds = (
                self._context.settings.reconcile_seconds if self._context.slot_acquired.is_set() else SLOT_RETRY_SECONDS
            )
            self._context.stopping.wait(seconds)

    def round(self) -> None:
        """Do everything once. Errors are logged, never raised."""
        try:
            if not self._context.slot_acquired.is_set():
                self._acquire_slot()
            self._update_worker_row()
            self._take_back_lost_jobs()
            self._notify_for_waiting()
            self._remove_expired()
            self._keep_spare()
        except AWAY as error:
            self._observed.clear()
            log.warning("the database is unavailable: %s", self._context.database.why_away(error))
        except Exception:  # the next round may succeed, and a worker without a reconciler would lose jobs
            self._observed.clear()
            log.exception("a round of the reconciler failed")

    def _acquire_slot(self) -> None:
        """Acquire the slot's lock. All processes of an earlier holder are then dead, so its jobs are taken back."""
        slot, grace = self._context.slot, self._context.settings.grace_seconds
        try:
            is_mine = slot.try_lock() or bool(remove_orphans(slot, grace + GUARDIAN_SECONDS) and slot.try_lock())
        except (CannotStart, SlotStuck) as error:
            self._problem = str(error)
            return
        self._problem = None if is_mine else f"another worker holds the slot {slot.name}"
        if not is_mine:
            return
        with self._context.database.reader() as session:
            own = [job for job in claims.held(session) if job.slot == slot.key]
        for job in own:
            self._take_back(job, DEAD)
        self._context.slot_acquired.set()

    def _update_worker_row(self) -> None:
        context = self._context
        with context.database.writer() as session:
            row = Worker(
                name=context.name,
                stage=context.stage,
                host=socket.gethostname(),
                device=context.device,
                gpus=1 + len(context.further_gpus.slots),
                version=__version__,
                problem=self._problem,
                gpu_readings=[reading.model_dump() for reading in context.gpu_readings.newest()] or None,
                job_id=claims.job_held_by(session, context.name),
                started_at=self._started,
            )
            claims.record_worker(session, row)
            session.commit()

    def _take_back_lost_jobs(self) -> None:
        now = time.monotonic()
        with self._context.database.reader() as session:
            held = list(claims.held(session))
        seen = {(job.id, job.epoch): self._observed.get((job.id, job.epoch), (-1, now)) for job in held}
        for job in held:
            heartbeat_count, since = seen[job.id, job.epoch]
            if self._is_slot_free(job):
                self._take_back(job, DEAD)
            elif heartbeat_count != job.heartbeats:
                seen[job.id, job.epoch] = (job.heartbeats, now)
            elif now - since > self._context.settings.lease_seconds:
                self._take_back(job, SILENT)
        self._observed = seen

    def _is_slot_free(self, job: Job) -> bool:
        """Whether the job's slot is on this host and nobody holds its lock."""
        if job.slot is None or job.slot == self._context.slot.key:
            return False
        return is_free(self._context.settings.slots, job.slot) is True

    def _take_back(self, job: Job, reason: str) -> None:
        context = self._context
        with context.database.writer() as session:
            lost = faults(session, job.id, job.epoch)
            pause = timedelta(seconds=pause_seconds(lost - 1)) if lost > 1 else None
            limit = context.settings.max_attempts
            taken = claims.take_back(session, job, utc_now(), reason=reason, max_attempts=limit, pause=pause)
            session.commit()
        if taken is not None:
            log.warning("%s was taken back from %s: %s", job.id, job.worker, reason)

    def _remove_expired(self) -> None:
        context = self._context
        try:
            retention.sweep(context.database, context.settings)
        except OSError as error:
            log.warning("a file that is no longer needed could not be removed: %s", error)

    def _keep_spare(self) -> None:
        """A spare holds the slot, as a training does."""
        context = self._context
        if context.spare is not None and context.slot_acquired.is_set() and not context.stopping.is_set():
            context.spare.keep()

    def _notify_for_waiting(self) -> None:
        context = self._context
        with context.database.reader() as session:
            waiting = {stage.served_by for stage in claims.waiting_stages(session, utc_now())}
            is_busy = claims.jobs_held_by(session, context.name) >= context.concurrency
        if context.slot_acquired.is_set() and context.stage in waiting and not is_busy:
            context.notifier.notify(context.stage)
