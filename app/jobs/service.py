"""The API's rules for jobs: which may be submitted, cancelled, paused, resumed and deleted."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.access import audit, usage
from app.access.caller import Caller
from app.config import Settings
from app.contracts.spec import SPEC_VERSION
from app.contracts.submitted import SubmittedSpec
from app.database.connection import Database, utc_now
from app.errors import Conflict, InvalidRequest, NotFound
from app.ids import new_id
from app.jobs import idempotency, limits, lineage, repository
from app.jobs.kinds import JobKind, stage_of, submission_of
from app.jobs.models import Job
from app.jobs.queue import retention, termination
from app.jobs.queue.notifier import JobNotifier
from app.jobs.states import JobStatus, RequestedAction
from app.processes.traces import traceparent
from app.scope import Scope

# PostgreSQL refuses a NUL in a text, so an id is validated before it is used in a query.
JOB_ID = re.compile(r"job-[a-z2-7]{24}")


def submit(
    database: Database,
    caller: Caller,
    settings: Settings,
    notifier: JobNotifier,
    kind: JobKind,
    spec: SubmittedSpec,
    sent: dict[str, Any],
    *,
    key: str | None = None,
) -> str:
    """Check a spec and its project, store its job, notify the workers, and return the job's id.

    A spec that names no project is for the caller's usual one.
    No connection is held while rows are read. Raises InvalidRequest and InvalidDataset, TooMany before any row is read,
    and `idempotency.MadeMeanwhile` if another request with the same key was first.
    """
    scope = caller.scope
    spec = spec.model_copy(update={"project": project_of(spec, scope)})
    scope.check(spec.project)
    caller.check_priority(spec.priority)
    with database.reader() as session:
        limits.check(session, settings, kind, caller, spec.project)
    submission_of(kind).check(database, scope, settings, spec)
    with database.writer() as session:
        job = _store(session, caller, settings, kind, spec, sent, key)
        session.commit()  # a worker must be able to find the row before it is notified
        job_id = job.id
    notifier.notify(kind.first_stage.served_by)
    return job_id


def project_of(spec: SubmittedSpec, scope: Scope) -> str:
    """Return the project that a spec names, or else the usual one of who sends it."""
    return spec.project if "project" in spec.model_fields_set else scope.usual_project


def _store(
    session: Session,
    caller: Caller,
    settings: Settings,
    kind: JobKind,
    spec: SubmittedSpec,
    sent: dict[str, Any],
    key: str | None,
) -> Job:
    limits.check(session, settings, kind, caller, spec.project)
    scope = caller.scope
    job = new_job(kind, spec, sent, submission_of(kind).columns(session, scope, settings, spec))
    job.created_by = caller.name
    repository.add(session, scope, job)
    if not kind.is_temporary:
        audit.record(session, "job.create", job.id, job.project, kind=kind.name)
        day = job.created_at.date()
        usage.add(session, scope, usage.UsageKey(day, job.project, caller.name), jobs=1)
    repository.append_event(session, job, "status", {"status": job.status.value}, job.created_at)
    if key is not None and not idempotency.keep(session, scope, key, sent, job):
        raise idempotency.MadeMeanwhile
    return job


def new_job(kind: JobKind, spec: SubmittedSpec, sent: dict[str, Any], columns: dict[str, Any]) -> Job:
    """Return the row of a new job. `columns` are those of `Submission.columns`."""
    return Job(
        **{
            "id": new_id("job"),
            "name": spec.name,
            "project": spec.project,
            "labels": spec.labels,
            "priority": spec.priority,
            "kind": kind.name,
            "is_temporary": kind.is_temporary,
            "sent": sent,
            "spec_version": SPEC_VERSION,
            "status": kind.first_stage.waiting,
            "requested_action": RequestedAction.RUN,
            "epoch": 0,
            "heartbeats": 0,
            "checkpoints_requested": 0,
            "last_seq": 1,
            "notices": [],
            "created_at": utc_now(),
            "traceparent": traceparent.get(),
            **columns,
        }
    )


def cancel(session: Session, scope: Scope, job_id: str) -> Job:
    """Cancel a job at once if no worker holds it; otherwise its worker cancels it soon. Cancelling twice is no error.

    Raises NotFound, and Conflict if the job has succeeded or failed.
    """
    find(session, scope, job_id)
    job = termination.end(session, scope, job_id)
    session.commit()
    if job is None:
        known = _find_again(session, scope, job_id)
        if known.status is not JobStatus.CANCELLED:
            raise _has_ended(known, "be cancelled")
        return known
    return job


def pause(session: Session, scope: Scope, job_id: str) -> Job:
    """Stop a job after it has saved a checkpoint, from which it can be resumed. Pausing twice is no error.

    Raises NotFound, and Conflict if the job has ended or is being cancelled.
    """
    find(session, scope, job_id)
    job = termination.pause(session, scope, job_id)
    session.commit()
    if job is None:
        raise _has_ended(_find_again(session, scope, job_id), "be paused")
    return job


def resume(session: Session, scope: Scope, notifier: JobNotifier, job_id: str) -> Job:
    """Continue a paused job from its newest checkpoint. Resuming a running job changes nothing.

    Raises NotFound, and Conflict if the job has ended or is being cancelled.
    """
    find(session, scope, job_id)
    job = termination.resume(session, scope, job_id)
    session.commit()
    if job is None:
        raise _has_ended(_find_again(session, scope, job_id), "be resumed")
    stage = stage_of(job)
    if stage is not None and job.status is JobStatus.QUEUED:
        notifier.notify(stage.served_by)
    return job


def ask_for_checkpoint(session: Session, scope: Scope, job_id: str) -> Job:
    """Request a checkpoint at the next step. Raises NotFound, and Conflict if the job is not running."""
    find(session, scope, job_id)
    job = repository.ask_for_checkpoint(session, scope, job_id)
    if job is not None:
        repository.append_request(session, job, "checkpoint", utc_now())
        audit.record(session, "job.checkpoint", job.id, job.project)
    session.commit()
    if job is None:
        status = _find_again(session, scope, job_id).status.value
        raise Conflict(f"{job_id} is {status}: only a running job makes checkpoints", code="job_not_running")
    return job


def _has_ended(job: Job, what: str) -> Conflict:
    if job.status is JobStatus.UNKNOWN:
        message = f"{job.id} has a status that only another version of Tunesmith knows: this version can only delete it"
        return Conflict(message, code="job_status_unknown")
    ends = "is being cancelled" if not job.status.is_final else f"has {_ENDS[job.status]}"
    return Conflict(f"{job.id} {ends} and cannot {what}", code="job_has_ended")


_ENDS = {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed", JobStatus.CANCELLED: "been cancelled"}


def find(session: Session, scope: Scope, job_id: str) -> Job:
    """Return a job. Raises NotFound, also for a temporary job, which only its own request may see."""
    job = repository.get(session, scope, job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None or job.is_temporary:
        raise unknown_job(job_id)
    return job


def unknown_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id[:64]!r}", param="job_id", code="unknown_job")


def find_among(session: Session, scope: Scope, job_ids: Sequence[str]) -> Sequence[Job]:
    """Return those of the jobs that `find` would return."""
    found = repository.among(session, scope, [job_id for job_id in job_ids if JOB_ID.fullmatch(job_id)])
    return [job for job in found if not job.is_temporary]


def _find_again(session: Session, scope: Scope, job_id: str) -> Job:
    """Read the row again, instead of returning what this session has loaded before."""
    session.expire_all()
    return find(session, scope, job_id)


def delete(session: Session, scope: Scope, settings: Settings, job_id: str) -> None:
    """Remove an ended job with its events, logs and checkpoints. Its adapter stays until it is deleted itself.

    Raises NotFound, and Conflict if the job has not ended or another job continues from it.
    """
    find(session, scope, job_id)
    job = repository.lock(session, scope, job_id)  # from here on no new job can continue from it
    if job is None:
        raise unknown_job(job_id)
    if not job.status.is_final:
        raise Conflict(f"{job_id} is {job.status.value}: cancel it before you delete it", code="job_is_alive")
    user = lineage.user_of(session, scope, job_id)
    if user is not None:
        raise Conflict(f"{user} continues from {job_id}: cancel it, or wait for its end", code="job_is_in_use")
    audit.record(session, "job.delete", job.id, job.project)
    if not retention.remove(session, scope, settings, job_id):
        raise Conflict(f"{job_id} changed meanwhile", code="job_is_alive")


def check_after(session: Session, scope: Scope, after: str | None) -> None:
    """Raise InvalidRequest if the parameter `after` of a list names no job."""
    if after is None:
        return
    try:
        find(session, scope, after)
    except NotFound as error:
        raise InvalidRequest(f"after: {error.message}", param="after") from error
