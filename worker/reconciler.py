"""Puts right what messages and dead processes leave behind: rings again for what waits, takes back what has no holder,
removes the dry runs that nobody waits for.

Several may run; every effect is a compare-and-set. A holder is judged dead when its heartbeat count has not moved for a
lease on this process's own clock, so no wall clock matters; a database error forgets all observations, so that an
outage never expires the leases of healthy workers.
"""

import logging
import socket
import time

from sqlalchemy.exc import OperationalError

from app.db import utc_now
from app.jobs import claims, service
from app.jobs.models import Job, Worker
from worker.office import Office

ROUND_SECONDS = 5.0
LOST = "the worker that held the job fell silent"
log = logging.getLogger(__name__)


class Reconciler:
    """The background thread of a worker process; also keeps the worker's own row fresh."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._started = utc_now()
        self._observed: dict[tuple[str, int], tuple[int, float]] = {}

    def run(self) -> None:
        self._take_back_own()
        self.round()
        while not self._office.stopping.wait(ROUND_SECONDS):
            self.round()

    def round(self) -> None:
        """One look at everything."""
        try:
            self._show_up()
            self._take_back_lost()
            self._ring_for_waiting()
            self._sweep_dry_runs()
        except OperationalError as error:
            self._observed.clear()
            log.warning("the database is away: %s", type(error.orig).__name__)

    def _show_up(self) -> None:
        office = self._office
        with office.database.writer() as session:
            row = Worker(
                name=office.name,
                stage=office.stage,
                host=socket.gethostname(),
                device=office.device,
                job_id=claims.job_held_by(session, office.name),
                started_at=self._started,
                last_seen=utc_now(),
            )
            claims.seen(session, row)
            session.commit()

    def _take_back_own(self) -> None:
        """A process that just began holds nothing: what bears its name was lost with the one before it."""
        try:
            with self._office.database.reader() as session:
                own = [job for job in claims.held(session) if job.worker == self._office.name]
            for job in own:
                self._take_back(job)
        except OperationalError as error:
            log.warning("the database is away: %s", type(error.orig).__name__)

    def _take_back_lost(self) -> None:
        now = time.monotonic()
        with self._office.database.reader() as session:
            held = list(claims.held(session))
        seen = {(job.id, job.epoch): self._observed.get((job.id, job.epoch), (-1, now)) for job in held}
        for job in held:
            beats, since = seen[job.id, job.epoch]
            if beats != job.beats:
                seen[job.id, job.epoch] = (job.beats, now)
            elif now - since > self._office.settings.lease_seconds:
                self._take_back(job)
        self._observed = seen

    def _take_back(self, job: Job) -> None:
        with self._office.database.writer() as session:
            if claims.give_back(session, job, utc_now(), outcome="worker_lost", reason=LOST, run_after=None):
                session.commit()
                log.warning("%s was taken back from %s: %s", job.id, job.worker, LOST)

    def _sweep_dry_runs(self) -> None:
        office = self._office
        try:
            service.sweep_dry_runs(office.database, office.settings)
        except OSError as error:
            log.warning("the folder of a dry run could not be removed: %s", error)

    def _ring_for_waiting(self) -> None:
        with self._office.database.reader() as session:
            stages = claims.waiting_stages(session, utc_now())
            is_busy = claims.job_held_by(session, self._office.name) is not None
        if self._office.stage in stages and not is_busy:
            self._office.bell.ring(self._office.stage)
