"""What a worker does when it is notified: claim a job, run an attempt, conclude it, until no job is left to claim.

claim ──> what earlier attempts left ──> order ──> child under a guardian ──> proof ──> verdict ──> next status, in one
commit
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.access.limits import parse_limits
from app.contracts.events import Blame, Failed
from app.database.connection import AWAY, utc_now
from app.disk_faults import is_full
from app.jobs.kinds import JobKind, kind_of, stage_of, submission_of
from app.jobs.models import Job
from app.jobs.queue import attempts
from app.jobs.queue.claims import Claim, Fenced, claim, finish, leave, lock
from app.jobs.states import JobStatus, RequestedAction, Stage, given_back, next_status
from app.processes.logs import about_attempt
from app.processes.traces import attempt_span
from app.store.faults import StoreAway
from worker.checkpoints import DiskFullFault
from worker.failures import SystemFault
from worker.supervising.attempt import Report, StopReason
from worker.supervising.context import WorkerContext
from worker.supervising.publishing import place_results, publish_artifacts
from worker.supervising.resuming import read_left_over
from worker.supervising.retries import retry_until_stored
from worker.supervising.runners import StageRunner, is_done, runner_of
from worker.supervising.transfers import keep_artifacts, store_is_away
from worker.supervising.verdict import Next, Verdict, decide

WHY_IT_WAITS = {
    "worker_stopped": "the worker was stopped",
    "interrupted": "the worker could not reach the database in time",
    "paused": "it was resumed before it had paused",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempted:
    """A claimed job with all that an attempt at it needs. `plan` is in the form of its kind."""

    held: Claim
    job: Job
    kind: JobKind
    runner: StageRunner
    plan: Any


def run_until_idle(context: WorkerContext) -> None:
    """Work on waiting jobs until there is none to claim or the process is to stop."""
    while context.slot_acquired.is_set() and not context.stopping.is_set():
        try:
            with context.further_gpus.locked():
                taken = take(context)
                if taken is None:
                    return
                work_on(context, taken)
        except Fenced as fenced:
            log.warning("%s", fenced)
        except AWAY as error:  # the reconciler notifies again once the database is back
            log.warning("the database is unavailable: %s", context.database.why_away(error))
            return


def take(context: WorkerContext) -> Attempted | None:
    """Claim the best waiting job that this version understands, or return None if there is none."""
    return next((taken for stage in context.stage.serves if (taken := _take(context, stage)) is not None), None)


def _take(context: WorkerContext, stage: Stage) -> Attempted | None:
    """Claim a job for one stage.

    The claim of a job that this version does not understand is rolled back, so it costs no attempt, and the next job is
    tried.
    """
    while True:
        with context.database.writer() as session:
            gpus = 1 + context.further_gpus.held if stage is Stage.TRAIN else None
            limits = parse_limits(context.settings.project_limits)
            who = (stage, context.name, context.slot.key)
            job = claim(session, *who, utc_now(), gpus=gpus, default_limits=limits)
            taken = _read(context, job, stage) if job is not None else None
            if job is None or taken is not None:
                context.further_gpus.keep(job.gpus - 1 if job is not None else 0)
                session.commit()
                return taken
            job_id = job.id
            session.rollback()
            leave(session, job_id)
            session.commit()
        log.warning("%s has a spec that this version does not understand; a newer worker has to run it", job_id)


def _read(context: WorkerContext, job: Job, stage: Stage) -> Attempted | None:
    kind = kind_of(job)
    assert kind is not None, "only jobs of known kinds are claimed"
    plan = submission_of(kind).read_plan(job)
    held = Claim(job.id, job.epoch, stage, context.name)
    return Attempted(held, job, kind, runner_of(kind, stage), plan) if plan is not None else None


def work_on(context: WorkerContext, taken: Attempted) -> None:
    """Run one attempt, from its claim to its end.

    Raises Fenced if another attempt owns the job, and one of AWAY if the process is to stop without the database.
    """
    held = taken.held
    span = attempt_span(context.tracing, taken.job.traceparent, held.job_id, held.epoch, held.stage)
    with about_attempt(held.job_id, held.epoch), span as traced:
        outcome = _work_on(context, taken)
        if traced is not None:
            traced.set_attribute("tunesmith.outcome", outcome)


def _work_on(context: WorkerContext, taken: Attempted) -> str:
    """Return the outcome of the attempt."""
    held = taken.held
    log.info("%s: attempt %d of %s began", held.job_id, held.epoch, held.stage)
    try:
        report = keep_artifacts(context, held, taken.runner, run(context, taken))
    except (Fenced, *AWAY):
        raise
    except Exception as error:
        log.exception("%s: attempt %d could not be run", held.job_id, held.epoch)
        report = Report(exit_code=1, failed=_unforeseen(error))
    try:
        verdict = retry_until_stored(lambda: conclude(context, taken, report), context.stopping)
    except (Fenced, *AWAY):
        raise
    except Exception as error:  # the result cannot be stored, but the failure can
        log.exception("%s: the end of attempt %d could not be stored", held.job_id, held.epoch)
        broken = Report(exit_code=report.exit_code, stopped=report.stopped, failed=_unforeseen(error))
        verdict = retry_until_stored(lambda: conclude(context, taken, broken), context.stopping)
    log.info("%s: attempt %d ended: %s", held.job_id, held.epoch, verdict.outcome)
    return verdict.outcome


def run(context: WorkerContext, taken: Attempted) -> Report:
    """Run the attempt. No work is begun if the job was cancelled or paused meanwhile."""
    held, job = taken.held, taken.job
    if job.requested_action is RequestedAction.CANCEL:
        return Report(exit_code=0, stopped=StopReason.CANCELLED)
    if job.requested_action is RequestedAction.PAUSE and held.stage is not Stage.CHECK:
        return Report(exit_code=0, stopped=StopReason.PAUSED)
    if retry_until_stored(lambda: read_left_over(context, held), context.stopping):
        job, plan = retry_until_stored(lambda: _read_again(context, taken), context.stopping)
        return taken.runner.run(context, held, job, plan)
    return taken.runner.run(context, held, job, taken.plan)


def _read_again(context: WorkerContext, taken: Attempted) -> tuple[Job, Any]:
    """Read the row and its plan after the events of earlier attempts, which may have pinned values. Raises Fenced."""
    with context.database.writer() as session:
        job = lock(session, taken.held)
    plan = submission_of(taken.kind).read_plan(job)
    return job, taken.plan if plan is None else plan


def conclude(context: WorkerContext, taken: Attempted, report: Report) -> Verdict:
    """Store the result of the attempt; this is safe to repeat. Raises Fenced if another attempt owns the job."""
    held, most = taken.held, context.settings.max_attempts
    with context.database.writer() as session:
        lock(session, held)
        faults = attempts.faults(session, held.job_id, held.epoch)
        verdict = decide(report, faults, most, is_done=is_done(taken.runner, report))
    if verdict.next is Next.DROP:
        raise Fenced(f"{held.job_id} was taken over while attempt {held.epoch} ran")
    if verdict.next is Next.GO_ON:
        place_results(context.settings, held.job_id, report)
    with context.database.writer() as session:
        job = _store_verdict(session, context, taken, report, verdict)
        session.commit()
    _notify(context, job)
    return verdict


def _notify(context: WorkerContext, job: Job) -> None:
    """Notify the workers of the job's next stage, unless the job has to wait first."""
    stage = stage_of(job)
    if stage is not None and stage.waiting is job.status and job.run_after is None:
        context.notifier.notify(stage.served_by)


def _store_verdict(session: Session, context: WorkerContext, taken: Attempted, report: Report, verdict: Verdict) -> Job:
    held, failure = taken.held, verdict.failure
    now, job = utc_now(), lock(session, held)
    ends: dict[str, Any] = {
        "outcome": verdict.outcome,
        "reason": failure.message if failure else None,
        "exit_code": report.exit_code,
    }
    match verdict.next:
        case Next.CANCEL:
            return finish(session, held, JobStatus.CANCELLED, now, **ends)
        case Next.FAIL:
            return finish(session, held, JobStatus.FAILED, now, **ends, error=_error_of(failure))
        case Next.PAUSE if (
            failure is not None and job.requested_action is not RequestedAction.CANCEL and held.stage is not Stage.CHECK
        ):
            error = _error_of(failure)
            return finish(
                session, held, JobStatus.PAUSED, now, **ends, requested_action=RequestedAction.PAUSE, error=error
            )
        case Next.GO_ON:
            values = taken.runner.publish(session, context, job, report)
            publish_artifacts(session, context.settings, job, report)
            target = next_status(held.stage, taken.kind.stage_after(held.stage), job.requested_action)
            return finish(session, held, target, now, **ends, **values, run_after=None)
    target = given_back(held.stage, job.requested_action)
    if target is not held.stage.waiting:
        return finish(session, held, target, now, **ends)
    ends["reason"] = ends["reason"] or WHY_IT_WAITS.get(verdict.outcome)
    return finish(session, held, target, now, **ends, run_after=_run_after(now, verdict))


def _run_after(now: datetime, verdict: Verdict) -> datetime | None:
    return now + timedelta(seconds=verdict.pause_seconds) if verdict.pause_seconds else None


def _error_of(failure: Failed | None) -> dict[str, Any]:
    assert failure is not None, "a verdict that fails a job names the failure"
    return {"category": failure.blame.value, **failure.model_dump(mode="json", exclude={"kind", "at", "blame"})}


def _unforeseen(error: Exception) -> Failed:
    if isinstance(error, SystemFault):
        return error.failure
    if isinstance(error, StoreAway):
        return store_is_away(str(error))
    if is_full(error):
        return DiskFullFault("the disk has no room for the files of an attempt").failure
    message = f"the worker could not run the attempt ({type(error).__name__})"
    return Failed(blame=Blame.SYSTEM, code="internal_error", message=message, hint="the worker's log has the trace")
