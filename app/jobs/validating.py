"""`POST /jobs/validate` and `POST /jobs/estimate`: make a hidden job, wait until a checker has checked it, read the
result and remove the job."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.access.caller import Caller
from app.config import Settings
from app.contracts.spec import JobSpec
from app.contracts.stored import read
from app.database.connection import Database
from app.errors import Unavailable
from app.jobs import repository, service
from app.jobs.estimating import estimate
from app.jobs.kinds import KINDS, VALIDATE
from app.jobs.models import Job
from app.jobs.queue import retention
from app.jobs.queue.notifier import JobNotifier
from app.jobs.schemas import JobError, resolved_spec
from app.jobs.states import JobStatus, Stage
from app.jobs.views import data
from app.jobs.views.data_schemas import RowView, Validation
from app.jobs.views.estimate_schemas import Estimate

POLL_SECONDS = 0.15
# A checker updates its row every five seconds.
CHECKER_IS_AWAY_AFTER = timedelta(seconds=10)


@dataclass(frozen=True)
class Validations:
    """The steps of one validation: `start`, `wait`, `read` or `estimate`, and in every case `end`."""

    database: Database
    caller: Caller
    settings: Settings
    notifier: JobNotifier
    longest: timedelta = repository.LONGEST_VALIDATION

    def start(self, spec: JobSpec, sent: dict[str, Any]) -> str:
        """Store a temporary job for a checker and return its id. Raises the same errors as submitting a job."""
        return service.submit(self.database, self.caller, self.settings, self.notifier, KINDS[VALIDATE], spec, sent)

    async def wait(self, job_id: str) -> None:
        """Return when the temporary job has ended. Raises Unavailable without a checker, or if it takes too long."""
        try:
            async with asyncio.timeout(self.longest.total_seconds()):
                while not await run_in_threadpool(self._has_ended, job_id):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            within = f"{self.longest.total_seconds():.0f} seconds"
            message = f"the check was not done within {within}: submit the job instead, its check has no such limit"
            raise Unavailable(message, code="check_takes_too_long") from None

    def _has_ended(self, job_id: str) -> bool:
        with self.database.reader() as session:
            status, worker, version = repository.standing(session, self.caller.scope, job_id) or (
                JobStatus.CANCELLED,
                None,
                0,
            )
            if status.is_final:
                return True
            newest = repository.newest_spec_version(session, Stage.CHECK, CHECKER_IS_AWAY_AFTER)
            if worker is None and (newest is None or newest < version):
                what = "no checker" if newest is None else "no checker that understands this spec"
                message = f"{what} has been seen in the last {CHECKER_IS_AWAY_AFTER.seconds} seconds"
                raise Unavailable(message, code="no_checker")
        return False

    def read(self, job_id: str, preview: int) -> Validation:
        """Return what the check found. Raises Unavailable if the temporary job was cancelled or deleted meanwhile."""
        with self.database.reader() as session:
            job = self._checked(session, job_id)
        return _validation(job, data.preview(self.settings, job, preview))

    def estimate(self, job_id: str) -> Estimate:
        """Return what the training would need and take, by what the check found. Raises Unavailable as `read` does."""
        with self.database.reader() as session:
            return estimate(session, self.settings, self._checked(session, job_id))

    def _checked(self, session: Session, job_id: str) -> Job:
        job = repository.get(session, self.caller.scope, job_id)
        if job is None or job.status is JobStatus.CANCELLED:
            raise Unavailable("the check was cancelled before it was done", code="check_was_ended")
        return job

    def end(self, job_id: str) -> None:
        with self.database.writer() as session:
            retention.end_temporary(session, self.caller.scope, self.settings, job_id)


def _validation(job: Job, preview: list[RowView]) -> Validation:
    return Validation(
        valid=job.status is JobStatus.SUCCEEDED,
        resolved_spec=resolved_spec(job),
        data_report=job.data_report,
        notices=job.notices,
        error=read(JobError, job.error),
        preview=preview,
    )
