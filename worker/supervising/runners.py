"""What a worker knows of a stage of one kind of job: how it is run, when it is complete, and what it publishes."""

import logging
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, Protocol

from sqlalchemy.orm import Session

from app.contracts.events import AttemptEvent
from app.database.connection import AWAY
from app.jobs.kinds import JobKind
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, record, record_event
from app.jobs.states import RequestedAction, Stage
from worker.supervising.attempt import Report, StopReason
from worker.supervising.context import WorkerContext
from worker.supervising.retries import retry_until_stored

log = logging.getLogger(__name__)


class StageRunner(Protocol):
    """Runs one stage of the jobs of a kind. It is made for each attempt."""

    def run(self, context: WorkerContext, held: Claim, job: Job, plan: Any) -> Report:
        """Do the work of an attempt, usually in a child process, and return what is known of it.

        Raises Fenced if another attempt owns the job, and one of AWAY if the process is to stop without the database.
        """

    def is_complete(self, report: Report) -> bool:
        """Return whether the report has all that the stage should bring."""

    def publish(self, session: Session, context: WorkerContext, job: Job, report: Report) -> dict[str, Any]:
        """Add the rows of the results, and return the values for the job's row.

        This is part of the transaction that ends the stage, and may be repeated.
        """


def runner_of(kind: JobKind, stage: Stage) -> StageRunner:
    make: Callable[[], StageRunner] = resolve_name(kind.runners[stage])
    return make()


def is_done(runner: StageRunner, report: Report) -> bool:
    """Return whether all work of the attempt is done."""
    return report.exit_code == 0 and report.failed is None and runner.is_complete(report)


def store_event(context: WorkerContext, held: Claim, event: AttemptEvent) -> None:
    """Store an event of the worker itself. Raises Fenced."""

    def write() -> None:
        with context.database.writer() as session:
            record_event(session, held, event)
            session.commit()

    retry_until_stored(write, context.stopping)


def heartbeat(context: WorkerContext, held: Claim) -> StopReason | None:
    """Send one heartbeat while no child runs. Returns why the attempt is to stop, or None. Raises Fenced."""
    try:
        with context.database.writer() as session:
            requested = record(session, held, (), 0)
            session.commit()
    except AWAY as error:
        log.warning("%s: the database is unavailable: %s", held.job_id, context.database.why_away(error))
        return StopReason.SHUTDOWN if context.stopping.is_set() else None
    if requested.requested_action is RequestedAction.CANCEL:
        return StopReason.CANCELLED
    if requested.requested_action is RequestedAction.PAUSE:
        return StopReason.PAUSED
    return StopReason.SHUTDOWN if context.stopping.is_set() else None
